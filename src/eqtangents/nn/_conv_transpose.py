"""Transposed convolutions."""

import math

import equinox as eqx
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqtangents._types import (
    Count,
    Counts,
    Multipliers,
    NamedPadding,
    NonNegative,
    lowered,
    plain,
)
from eqtangents.covariance import AbstractCovariance, Gathered, Stencil, Window, picked
from eqtangents.nn._affine import AbstractAffine
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import Covariances, LayerError, one_input
from eqtangents.nn._parameterization import (
    AbstractParameterization,
    Fans,
    Parameterization,
    as_parameterization,
)
from eqtangents.nn._spatial import (
    padded,
    per_axis,
    window_sums,
)
from eqtangents.nn._taps import (
    KeptVariances,
    TapVariances,
    kept_variances,
    relative_variances,
)
from eqtangents.nn._weight_init import WeightInit


class ConvTranspose(AbstractAffine):
    r"""A transposed convolution: zeros between the inputs, then a convolution.

    With $\hat{x}$ the input with $s - 1$ zeros between neighbours and zeros around it,

    $$z_p = \frac{\sigma_w}{\sqrt{C |F|}} \sum_{o \in F} \omega_o \hat{x}_{p + o}
    + \sigma_b \beta, \qquad
    K'_{pp'} = \frac{\sigma_w^2}{|F|} \sum_{o \in F} \hat{K}_{p + o,\, p' + o}
    + \sigma_b^2$$

    and $T' = \sigma_w^2 A(\hat{T}) + K'$ in the NTK parameterisation. The size of the
    output is `size * stride`, with `"VALID"` and `max(kernel_size - stride, 0)` more.
    """

    weight: Float[Array, "out in *kernel"] | None
    bias: Float[Array, " out"] | None
    weight_std: NonNegative
    bias_std: NonNegative | None
    tap_variances: KeptVariances | None
    out_channels: Count = eqx.field(static=True)
    kernel_size: Counts = eqx.field(static=True)
    stride: Counts = eqx.field(static=True)
    padding: NamedPadding = eqx.field(static=True)
    weight_init: WeightInit = eqx.field(static=True)
    parameterization: AbstractParameterization

    def __init__(
        self,
        out_channels: Count,
        kernel_size: Counts,
        stride: Counts = 1,
        padding: NamedPadding = "VALID",
        *,
        weight_std: NonNegative = 1.0,
        bias_std: NonNegative | None = None,
        tap_variances: TapVariances | None = None,
        weight_init: WeightInit = "normal",
        parameterization: Parameterization = "ntk",
        width_multipliers: Multipliers = (1, 1),
    ):
        """Describe the layer; `init` draws its parameters.

        **Arguments:** as for `Conv`; `padding` is `"VALID"`, `"SAME"` or `"CIRCULAR"`.
        """
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
    ) -> "ConvTranspose":
        """Draw weights for inputs with `input_shape[0]` channels."""
        channels, *size = input_shape
        kernel = per_axis(self, "kernel_size", self.kernel_size, len(size))
        out = self.parameterization.channels(self.out_channels)
        fans = Fans(channels * math.prod(kernel), channels, out)
        relative = relative_variances(self, self.tap_variances, kernel)
        return self._drawn((out, channels, *kernel), fans, key, relative=relative)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        weight = self._drawn_weight()
        value, extras = unwrap(x)
        if value.ndim != weight.ndim - 1 or value.shape[0] != weight.shape[1]:
            raise LayerError(
                self,
                f"takes {weight.shape[1]} channels and {weight.ndim - 2} spatial axes, "
                f"but the input has shape {value.shape}. Channels come first, and a "
                "batch is mapped by `jax.vmap(model)(xs)`.",
            )
        indices, covered = self._spread(value.shape[1:])
        convolve = lambda weight: lax.conv_general_dilated(
            padded(picked(value, indices), covered)[None],
            weight,
            window_strides=(1,) * len(covered),
            padding="VALID",
        )[0]
        out, channels, *kernel = weight.shape
        fans = Fans(math.prod(weight.shape[1:]), channels, out)
        relative = relative_variances(self, self.tap_variances, kernel)
        out = self._applied(convolve, weight, fans, relative)
        mask = extras.mask
        return extras.rewrap(out, None if mask is None else self._mask(mask[None])[0])

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        outline = covariance.outline
        indices, covered = self._spread(outline.size)
        mask = None if outline.mask is None else self._mask(outline.mask)
        kernel = [window.count for window in covered]
        return self._fresh(
            Stencil(Gathered(covariance, indices), covered, mask=mask),
            taps=math.prod(kernel),
            channels_in=outline.channels,
            channels=self.out_channels,
            relative=relative_variances(self, self.tap_variances, kernel),
        )

    def _spread(
        self, size: tuple[int, ...]
    ) -> tuple[list[np.ndarray], tuple[Window, ...]]:
        """Where inputs go, -1 for the zeros between them, and the windows on that."""
        kernels = per_axis(self, "kernel_size", self.kernel_size, len(size))
        strides = per_axis(self, "stride", self.stride, len(size))
        pairs = [
            _spread_axis(n, f, s, self.padding)
            for n, f, s in zip(size, kernels, strides, strict=True)
        ]
        return [index for index, _ in pairs], tuple(window for _, window in pairs)

    def _mask(self, mask: Bool[Array, "n *size"]) -> Bool[Array, "n *size_out"]:
        """The outputs that no missing position contributes to."""
        indices, covered = self._spread(mask.shape[1:])
        missing = picked((~mask).astype(np.float32), indices)
        return window_sums(missing, covered) == 0


def _spread_axis(n: int, f: int, s: int, padding: str) -> tuple[np.ndarray, Window]:
    spread, longer = np.full(n * s, -1), max(f - s, 0)
    spread[::s] = np.arange(n)
    if padding == "CIRCULAR":  # the valid output, its ends folded onto `n * s`
        first = longer // 2 - (f - 1)
        offsets = tuple(range(first, first + f))
        return spread, Window(offsets, 1, n * s, n * s, periodic=True)
    if padding == "VALID":
        low, total = f - 1, f + s - 2 + longer
    else:
        total = f + s - 2
        low = f - 1 if s > f - 1 else -(-total // 2)
    spread = spread[: (n - 1) * s + 1]
    spread = np.pad(spread, (low, total - low), constant_values=-1)
    return spread, Window.of(spread.size, kernel=f)
