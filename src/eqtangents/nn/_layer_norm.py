"""Layer normalisation."""

import equinox as eqx
from jaxtyping import Array, Bool, Float

from eqtangents._types import Axes, NonNegative, plain
from eqtangents.covariance import (
    AbstractCovariance,
    Centred,
    Nonlinear,
    Normalised,
)
from eqtangents.nn._layer import LayerError
from eqtangents.nn._norm import AbstractNorm, normalised_input, standardised


class LayerNorm(AbstractNorm):
    r"""Subtract the mean and divide by the standard deviation, over some of the axes.

    In the limit of infinitely many channels neither is random any more:

    $$K'_{pp'} = \frac{K_{pp'}}{\sqrt{v_p v'_{p'}}}, \qquad
    v_p = \epsilon + \operatorname{mean} K(x, x)_{qq}$$

    and $T'$ alike, with the mean over the positions $q$ that are normalised along with
    $p$. The gains (one a channel, from 1) add $K'$ to $T'$, the offsets (from 0) add 1;
    at initialisation they do not change the function.

    **Source:** Ba et al. 2016, arXiv:1607.06450; Yang 2020, arXiv:2006.14548.
    """

    weight: Float[Array, " channels"] | None
    bias: Float[Array, " channels"] | None
    axes: tuple[int, ...] = eqx.field(static=True)
    eps: NonNegative
    use_weight: bool = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)

    def __init__(
        self,
        axes: Axes = 0,
        *,
        eps: NonNegative = 1e-12,
        use_weight: bool = False,
        use_bias: bool = False,
    ):
        """Describe the layer.

        **Arguments:**

        - `axes`: axes of one example to normalise over: 0, the channels, and any of
            the spatial ones, from 1 on.
        - `eps`: added to the variance.
        - `use_weight`, `use_bias`: whether to learn gains and offsets.
        """
        self.weight, self.bias = None, None
        axes = plain(axes)
        self.axes = (axes,) if isinstance(axes, int) else axes
        self.eps, self.use_weight, self.use_bias = eps, use_weight, use_bias

    def __check_init__(self):
        """Raise unless the channels are normalised over."""
        if 0 not in self.axes or len(set(self.axes)) != len(self.axes):
            raise ValueError(
                f"LayerNorm: `axes` is {self.axes}, but must have axis 0, the channels,"
                " and others at most once: statistics of a single channel stay random "
                "in the limit of infinitely many of them."
            )

    def check_shape(self, shape: tuple[int, ...]) -> None:
        rank = len(shape) - 1
        if max(self.axes) > rank or min(self.axes) < 0:
            raise LayerError(
                self,
                f"normalises over axes {self.axes}, but its input has axis 0 for "
                f"channels and {rank} spatial axes after it.",
            )

    def standardised(
        self, value: Float[Array, "channels *size"], mask: Bool[Array, "*size"] | None
    ) -> Float[Array, "channels *size"]:
        return standardised(value, mask, self.axes, self.eps, centred=True)

    def normalised(self, covariance: AbstractCovariance) -> AbstractCovariance:
        spatial = tuple(axis - 1 for axis in self.axes if axis)
        if covariance.examples is not None:
            return normalised_input(covariance, self.axes, self.eps, centred=True)
        if covariance.outline.centred:
            return Normalised(covariance, spatial, self.eps, centred=True)
        # The mean of a function of Gaussians is not zero; only its rule knows it.
        if isinstance(covariance, Nonlinear) and not spatial:
            return Normalised(Centred(covariance), spatial, self.eps, centred=True)
        raise LayerError(
            self,
            "subtracts the mean over the channels, which is known for inputs with mean "
            "zero, for the network's input, and right after a nonlinearity (over the "
            "channels alone), but not here. Put a `Linear` or `Conv` before it, or use "
            "`RMSNorm`.",
        )
