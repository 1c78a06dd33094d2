"""Group normalisation."""

import equinox as eqx
import jax
from jaxtyping import Array, Bool, Float

from eqtangents._types import Count, NonNegative, plain
from eqtangents.covariance import AbstractCovariance, Normalised
from eqtangents.nn._layer import LayerError
from eqtangents.nn._norm import AbstractNorm, standardised


class GroupNorm(AbstractNorm):
    """`LayerNorm` over the positions and each group of the channels.

    In the limit each group has infinitely many channels, and so the same statistics.

    **Source:** Wu & He 2018, arXiv:1803.08494.
    """

    weight: Float[Array, " channels"] | None
    bias: Float[Array, " channels"] | None
    eps: NonNegative
    groups: Count = eqx.field(static=True)
    use_weight: bool = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)

    def __init__(
        self,
        groups: Count,
        *,
        eps: NonNegative = 1e-12,
        use_weight: bool = False,
        use_bias: bool = False,
    ):
        """Describe the layer, as `LayerNorm`."""
        self.weight, self.bias = None, None
        self.groups, self.eps = plain(groups), eps
        self.use_weight, self.use_bias = use_weight, use_bias

    def check_shape(self, shape: tuple[int, ...]) -> None:
        channels = shape[0]
        if channels % self.groups:
            raise LayerError(
                self,
                f"splits channels into {self.groups} groups, but the input has "
                f"{channels} of them, which is no multiple of that.",
            )

    def standardised(
        self, value: Float[Array, "channels *size"], mask: Bool[Array, "*size"] | None
    ) -> Float[Array, "channels *size"]:
        groups = value.reshape(self.groups, -1, *value.shape[1:])
        axes = tuple(range(value.ndim))
        one = lambda group: standardised(group, mask, axes, self.eps, centred=True)
        return jax.vmap(one)(groups).reshape(value.shape)

    def normalised(self, covariance: AbstractCovariance) -> AbstractCovariance:
        outline = covariance.outline
        if self.groups == outline.channels:
            raise LayerError(
                self,
                "has one channel in each group: statistics of a single channel stay "
                "random, so that there is no kernel in closed form. Use fewer groups, "
                "or estimate the kernel by `eqtangents.monte_carlo`.",
            )
        if not (outline.centred and outline.exchangeable):
            raise LayerError(
                self,
                "needs inputs with mean zero, whose channels are all alike. Put a "
                "`Linear` or `Conv` before it.",
            )
        return Normalised(
            covariance, tuple(range(outline.rank)), self.eps, centred=True
        )
