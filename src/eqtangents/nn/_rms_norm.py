"""Normalisation by the root of the mean square."""

import equinox as eqx
from jaxtyping import Array, Bool, Float

from eqtangents._types import NonNegative
from eqtangents.covariance import AbstractCovariance, Normalised
from eqtangents.nn._norm import AbstractNorm, normalised_input, standardised


class RMSNorm(AbstractNorm):
    r"""Divide by the root of the mean square over the channels, at each position.

    $$K'_{pp'} = K_{pp'} / \sqrt{(\epsilon + K_{pp})(\epsilon + K'_{p'p'})}$$

    and $T'$ alike; no mean is subtracted, so that any input will do. Gains and offsets
    as in `LayerNorm`.

    **Source:** Zhang & Sennrich 2019, arXiv:1910.07467.
    """

    weight: Float[Array, " channels"] | None
    bias: Float[Array, " channels"] | None
    eps: NonNegative
    use_weight: bool = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)

    def __init__(
        self,
        *,
        eps: NonNegative = 1e-12,
        use_weight: bool = False,
        use_bias: bool = False,
    ):
        """Describe the layer, as `LayerNorm`."""
        self.weight, self.bias = None, None
        self.eps, self.use_weight, self.use_bias = eps, use_weight, use_bias

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Any input will do."""

    def standardised(
        self, value: Float[Array, "channels *size"], mask: Bool[Array, "*size"] | None
    ) -> Float[Array, "channels *size"]:
        return standardised(value, mask, (0,), self.eps, centred=False)

    def normalised(self, covariance: AbstractCovariance) -> AbstractCovariance:
        if covariance.examples is not None:
            return normalised_input(covariance, (0,), self.eps, centred=False)
        return Normalised(covariance, (), self.eps, centred=False)
