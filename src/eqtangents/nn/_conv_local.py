"""Convolutions with weights of their own at each position."""

import math

import equinox as eqx
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import (
    Count,
    Counts,
    Multipliers,
    NonNegative,
    Padding,
    lowered,
    plain,
)
from eqtangents.covariance import AbstractCovariance, LocallyConnected, Stencil
from eqtangents.nn._affine import AbstractAffine
from eqtangents.nn._inputs import SignalT, unwrap, window_mask
from eqtangents.nn._layer import Covariances, LayerError, one_input
from eqtangents.nn._parameterization import (
    AbstractParameterization,
    Fans,
    Parameterization,
    as_parameterization,
)
from eqtangents.nn._spatial import padded, windows
from eqtangents.nn._taps import (
    KeptVariances,
    TapVariances,
    kept_variances,
    relative_variances,
)
from eqtangents.nn._weight_init import WeightInit


class ConvLocal(AbstractAffine):
    r"""A convolution that shares no weights: each output position has its own.

    $$K'_{pp'} = \delta_{pp'} \left( \sigma_w^2 A(K)_{pp} + \sigma_b^2 \right), \qquad
    T'_{pp'} = \delta_{pp'} \left( \sigma_w^2 A(T)_{pp} + K'_{pp} \right)$$

    with $A$ as for `Conv`, in the NTK parameterisation.

    **Source:** Novak et al. 2019, arXiv:1810.05148, section 4 (locally connected
    networks).
    """

    weight: Float[Array, "out taps *size_out"] | None
    bias: Float[Array, "out *size_out"] | None
    weight_std: NonNegative
    bias_std: NonNegative | None
    tap_variances: KeptVariances | None
    out_channels: Count = eqx.field(static=True)
    kernel_size: Counts = eqx.field(static=True)
    stride: Counts = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    weight_init: WeightInit = eqx.field(static=True)
    parameterization: AbstractParameterization

    def __init__(
        self,
        out_channels: Count,
        kernel_size: Counts,
        stride: Counts = 1,
        padding: Padding = "VALID",
        *,
        weight_std: NonNegative = 1.0,
        bias_std: NonNegative | None = None,
        tap_variances: TapVariances | None = None,
        weight_init: WeightInit = "normal",
        parameterization: Parameterization = "ntk",
        width_multipliers: Multipliers = (1, 1),
    ):
        """Describe the layer, as `Conv`; `init` draws its parameters."""
        self.weight, self.bias = None, None
        self.out_channels = plain(out_channels)
        self.kernel_size = plain(kernel_size)
        self.stride, self.padding = plain(stride), plain(padding)
        self.weight_std, self.bias_std = weight_std, bias_std
        self.tap_variances = kept_variances(self, tap_variances, self.kernel_size)
        self.weight_init = lowered(weight_init)
        self.parameterization = as_parameterization(
            self, parameterization, width_multipliers
        )

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "ConvLocal":
        """Draw weights for inputs of a shape."""
        channels, *size = input_shape
        covered = self._windows(tuple(size))
        kernel = [window.count for window in covered]
        positions = tuple(window.size_out for window in covered)
        out = self.parameterization.channels(self.out_channels)
        taps = channels * math.prod(kernel)
        drawn = self._drawn(
            (out, channels, *kernel, *positions),
            Fans(taps, channels, out),
            key,
            (out, *positions),
            relative=relative_variances(self, self.tap_variances, kernel),
        )
        flat = lambda weight: weight.reshape(out, taps, *positions)
        return eqx.tree_at(lambda layer: layer.weight, drawn, replace_fn=flat)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        weight = self._drawn_weight()
        value, extras = unwrap(x)
        covered = self._windows(value.shape[1:])
        taps = value.shape[0] * math.prod(window.count for window in covered)
        shape = (taps, *(window.size_out for window in covered))
        if weight.shape[1:] != shape:
            raise LayerError(
                self,
                f"has weights of shape {weight.shape}, but an input of shape "
                f"{value.shape} needs `(out, {', '.join(map(str, shape))})`: they "
                "belong to positions, so that all inputs must have one size.",
            )
        kernel = [window.count for window in covered]

        def convolve(weight: Float[Array, "..."]) -> Float[Array, "..."]:
            out = lax.conv_general_dilated_local(
                padded(value, covered)[None],
                weight.reshape(-1, *shape),
                window_strides=[window.stride for window in covered],
                padding="VALID",
                filter_shape=kernel,
            )[0]
            return out[:, *(slice(window.size_out) for window in covered)]

        out, channels = weight.shape[0], value.shape[0]
        by_tap = weight.reshape(out, channels, *kernel, *shape[1:])
        fans = Fans(taps, channels, out)
        relative = relative_variances(self, self.tap_variances, kernel)
        out = self._applied(convolve, by_tap, fans, relative)
        return extras.rewrap(out, window_mask(extras, covered))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """As `Conv` where positions coincide, zero elsewhere."""
        covariance = one_input(self, covariance)
        covered = self._windows(covariance.outline.size)
        kernel = [window.count for window in covered]
        return LocallyConnected(
            self._fresh(
                Stencil(covariance, covered),
                taps=math.prod(kernel),
                channels_in=covariance.outline.channels,
                channels=self.out_channels,
                relative=relative_variances(self, self.tap_variances, kernel),
            )
        )

    def _windows(self, size: tuple[int, ...]) -> tuple:
        return windows(
            self,
            size,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
        )
