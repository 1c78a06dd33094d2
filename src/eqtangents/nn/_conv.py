"""Convolutions."""

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
from eqtangents.covariance import AbstractCovariance, Stencil
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


class Conv(AbstractAffine):
    r"""A convolution over any number of spatial axes.

    $$z_p = \frac{\sigma_w}{\sqrt{C |F|}} \sum_{o \in F} \omega_o x_{s p + o}
    + \sigma_b \beta, \qquad
    A(K)_{pp'} = \frac{1}{|F|} \sum_{o \in F} K_{s p + o,\, s p' + o}$$

    $$K' = \sigma_w^2 A(K) + \sigma_b^2, \qquad T' = \sigma_w^2 A(T) + K'$$

    in the NTK parameterisation, with $|F|$ offsets in the window. Where taps have their
    own variances, of shares $v_o$ that sum to one, $\omega_o$ is multiplied by
    $\sqrt{|F| v_o}$, and $A(K)_{pp'} = \sum_o v_o K_{s p + o,\, s p' + o}$. So taps
    without variance are not trained. In the standard parameterisation they are, as all
    others, whatever they are drawn with: with the mean $M$ over all taps
    $T' = \sigma_w^2 A(T) + \frac{N}{s_0} M(K) + 1$.

    **Source:** Novak et al. 2019, arXiv:1810.05148, eq. 8; Arora et al. 2019,
    arXiv:1904.11955, section 4. For delta-orthogonal weights, Xiao et al. 2018,
    arXiv:1806.05393.
    """

    weight: Float[Array, "out in *kernel"] | None
    bias: Float[Array, " out"] | None
    weight_std: NonNegative
    bias_std: NonNegative | None
    tap_variances: KeptVariances | None
    out_channels: Count = eqx.field(static=True)
    kernel_size: Counts = eqx.field(static=True)
    stride: Counts = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)
    dilation: Counts = eqx.field(static=True)
    groups: Count = eqx.field(static=True)
    weight_init: WeightInit = eqx.field(static=True)
    parameterization: AbstractParameterization

    def __init__(
        self,
        out_channels: Count,
        kernel_size: Counts,
        stride: Counts = 1,
        padding: Padding = "VALID",
        *,
        dilation: Counts = 1,
        groups: Count = 1,
        weight_std: NonNegative = 1.0,
        bias_std: NonNegative | None = None,
        tap_variances: TapVariances | None = None,
        weight_init: WeightInit = "normal",
        parameterization: Parameterization = "ntk",
        width_multipliers: Multipliers = (1, 1),
    ):
        r"""Describe the layer; `init` draws its parameters.

        **Arguments:**

        - `out_channels`: the number of outputs. The kernel does not depend on it.
        - `kernel_size`, `stride`, `dilation`: one number for all spatial axes, or one
            for each.
        - `padding`: `"VALID"`: windows stay inside the input; `"SAME"`: zeros around
            it, so that the output has the size of the input over the stride;
            `"CIRCULAR"`: the same with the input repeated; or how many zeros to put
            around the input, on all axes alike or `(before, after)` for each.
        - `groups`: into how many groups the channels of input and output are split,
            each connected within. With as many groups as input channels (a depthwise
            convolution) an output is no mixture of infinitely many inputs and so not
            Gaussian: put a `Linear` before the next nonlinearity. Otherwise groups
            count as infinitely wide, and do not change the kernel.
        - `weight_std`, `bias_std`, `parameterization`, `width_multipliers`: as for
            `Linear`.
        - `tap_variances`: how the variance of the weights is shared among the taps of
            the window; by default they are alike. Only ratios matter: numbers for each
            tap, or those along one axis, which stand for all axes and are multiplied.
            `(0, 1, 0)` is the centre alone. Numbers of Python or NumPy are constants;
            an array of JAX can be differentiated.
        - `weight_init`: as for `Linear`, for each tap and each group. Orthogonal
            weights at the centre alone are delta-orthogonal.

        **Raises:** `ValueError` for variances of another window, and for width
        multipliers that would have no effect.
        """
        self.weight, self.bias = None, None
        self.out_channels = plain(out_channels)
        self.kernel_size = plain(kernel_size)
        self.stride, self.padding = plain(stride), plain(padding)
        self.dilation, self.groups = plain(dilation), plain(groups)
        self.weight_std, self.bias_std = weight_std, bias_std
        self.tap_variances = kept_variances(self, tap_variances, self.kernel_size)
        self.weight_init = lowered(weight_init)
        self.parameterization = as_parameterization(
            self, parameterization, width_multipliers
        )

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "Conv":
        """Draw weights for inputs with `input_shape[0]` channels."""
        channels, *size = input_shape
        kernel = [window.count for window in self._windows(tuple(size))]
        inputs = self._inputs_to_each(channels)
        out = self.parameterization.channels(self.out_channels)
        fans = Fans(inputs * math.prod(kernel), inputs, out)
        relative = relative_variances(self, self.tap_variances, kernel)
        shape = (out, inputs, *kernel)
        return self._drawn(shape, fans, key, relative=relative, groups=self.groups)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        weight = self._drawn_weight()
        value, extras = unwrap(x)
        channels = weight.shape[1] * self.groups
        if value.ndim != weight.ndim - 1 or value.shape[0] != channels:
            raise LayerError(
                self,
                f"takes {channels} channels and {weight.ndim - 2} spatial axes, but "
                f"the input has shape {value.shape}. Channels come first, and a batch "
                "is mapped by `jax.vmap(model)(xs)`.",
            )
        covered = self._windows(value.shape[1:])
        rank = len(covered)
        dilation = self.dilation

        def convolve(weight: Float[Array, "..."]) -> Float[Array, "..."]:
            out = lax.conv_general_dilated(
                padded(value, covered)[None],
                weight,
                window_strides=[window.stride for window in covered],
                padding="VALID",
                rhs_dilation=(
                    (dilation,) * rank if isinstance(dilation, int) else dilation
                ),
                feature_group_count=self.groups,
            )[0]
            return out[:, *(slice(window.size_out) for window in covered)]

        out, channels, *kernel = weight.shape
        fans = Fans(math.prod(weight.shape[1:]), channels, out)
        relative = relative_variances(self, self.tap_variances, kernel)
        out = self._applied(convolve, weight, fans, relative)
        return extras.rewrap(out, window_mask(extras, covered))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Average over windows that move both positions together, then affine."""
        covariance = one_input(self, covariance)
        outline = covariance.outline
        if self.groups > 1 and not outline.exchangeable:
            raise LayerError(
                self,
                f"splits its input into {self.groups} groups, which have one kernel "
                "only if all channels are alike, but these are the network's inputs, "
                "or were flattened or concatenated. Put a `Linear` or `Conv` before "
                "it.",
            )
        covered = self._windows(outline.size)
        kernel = [window.count for window in covered]
        return self._fresh(
            Stencil(covariance, covered),
            taps=math.prod(kernel),
            channels_in=self._inputs_to_each(outline.channels),
            channels=self.out_channels,
            relative=relative_variances(self, self.tap_variances, kernel),
            gaussian=self.groups == 1 or self.groups < outline.channels,
        )

    def _inputs_to_each(self, channels: int) -> int:
        """The number of channels that each output is connected to."""
        for name, count in (("input", channels), ("output", self.out_channels)):
            if count % self.groups:
                raise LayerError(
                    self,
                    f"splits channels into {self.groups} groups, but the {name} has "
                    f"{count} of them, which is no multiple of that.",
                )
        return channels // self.groups

    def _windows(self, size: tuple[int, ...]) -> tuple:
        return windows(
            self,
            size,
            kernel_size=self.kernel_size,
            stride=self.stride,
            dilation=self.dilation,
            padding=self.padding,
        )
