"""Layers with weights, and the scale that Equinox draws these at."""

import dataclasses
import math
from typing import Any, TypeAlias, cast

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents import nn
from eqtangents._types import Padding, Scalar
from eqtangents.nn._layer import LayerError
from eqtangents.nn._parameterization import AbstractParameterization, Fans


# Equinox draws parameters uniformly from +-1 / sqrt(fan_in): variance 1 / (3 fan_in).
UNIFORM_STD = 1 / math.sqrt(3)
Weighted: TypeAlias = eqx.nn.Linear | eqx.nn.Conv | eqx.nn.ConvTranspose


@dataclasses.dataclass(frozen=True)
class Scales:
    """What `from_equinox` was asked for, and the parameters that were carried over."""

    weight_std: Scalar
    bias_std: Scalar | None
    parameterization: AbstractParameterization
    embedding_std: Scalar = 1.0
    # By identity: parameters that layers of the model share are shared in ours, too.
    known: dict[int, Array] = dataclasses.field(default_factory=dict)

    def options(self, theirs: Weighted) -> dict[str, Any]:
        """The arguments that all layers with weights have."""
        bias_std = self.bias_std
        if bias_std is None:
            bias_std = UNIFORM_STD / math.sqrt(_fan_in(theirs))
        return {
            "weight_std": self.weight_std,
            "bias_std": None if theirs.bias is None else bias_std,
            "parameterization": self.parameterization,
        }

    def carried(self, ours: Any, theirs: Weighted) -> Any:
        """The parameters of their layer, in ours."""
        out, channels = theirs.weight.shape[:2]
        fans = Fans(_fan_in(theirs), channels, out)
        weights = ours.parameterization.weights(ours.weight_std, fans)
        scale = weights.multiplier / math.sqrt(fans.inputs)
        weight, bias = self.divided(theirs.weight, scale), None
        if theirs.bias is not None:
            biases = ours.parameterization.biases(ours.bias_std, fans)
            bias = self.divided(theirs.bias, biases.multiplier).reshape(-1)
        return with_parameters(ours, weight, bias)

    def divided(self, theirs: Array, scale: Scalar) -> Array:
        """Parameters of a layer that multiplies them by a scale."""
        if id(theirs) not in self.known:
            self.known[id(theirs)] = theirs / jnp.asarray(scale, theirs.dtype)
        return self.known[id(theirs)]


def _fan_in(theirs: Weighted) -> int:
    return math.prod(theirs.weight.shape[1:])


def with_parameters(
    ours: Any, weight: Float[Array, "..."] | None, bias: Float[Array, " out"] | None
) -> Any:
    """A layer with these parameters."""
    return eqx.tree_at(
        lambda layer: (layer.weight, layer.bias),
        ours,
        (weight, bias),
        is_leaf=lambda leaf: leaf is None,
    )


def lift_linear(theirs: eqx.nn.Linear, scales: Scales) -> nn.Linear:
    """A fully-connected layer."""
    ours = nn.Linear(theirs.weight.shape[0], **scales.options(theirs))
    return scales.carried(ours, theirs)


def lift_embedding(theirs: eqx.nn.Embedding, scales: Scales) -> nn.Embedding:
    """Vectors for tokens, which Equinox draws with variance one."""
    weight = theirs.weight
    ours = nn.Embedding(
        *weight.shape,
        weight_std=scales.embedding_std,
        parameterization=scales.parameterization,
    )
    fans = Fans(1, 1, weight.shape[1])
    scale = ours.parameterization.weights(ours.weight_std, fans)
    return eqx.tree_at(
        lambda layer: layer.weight,
        ours,
        scales.divided(weight, scale.multiplier),
        is_leaf=lambda leaf: leaf is None,
    )


def lift_conv(theirs: eqx.nn.Conv, scales: Scales) -> nn.Conv:
    """A convolution."""
    ours = nn.Conv(
        theirs.out_channels,
        theirs.kernel_size,
        theirs.stride,
        _conv_padding(theirs),
        dilation=theirs.dilation,
        groups=theirs.groups,
        **scales.options(theirs),
    )
    return scales.carried(ours, theirs)


def _conv_padding(theirs: eqx.nn.Conv) -> Padding:
    """The padding of a convolution, as far as that does not depend on the input."""
    reach = [
        d * (k - 1) for d, k in zip(theirs.dilation, theirs.kernel_size, strict=True)
    ]
    padding: Any = theirs.padding
    same: Any = "SAME"
    if all(stride == 1 for stride in theirs.stride):
        same = tuple((r // 2, r - r // 2) for r in reach)
        lower = tuple((r - r // 2, r // 2) for r in reach)
        padding = {"SAME": same, "SAME_LOWER": lower}.get(padding, padding)
    nothing = padding == "VALID" or not any(map(any, padding))
    if nothing or (theirs.padding_mode == "ZEROS" and padding != "SAME_LOWER"):
        return padding
    if theirs.padding_mode == "CIRCULAR" and padding == same:
        return "CIRCULAR"
    raise LayerError(
        theirs,
        f"pads by {theirs.padding}, {theirs.padding_mode!r}, with stride "
        f"{theirs.stride}, which has no counterpart. Use zeros, in any numbers or for "
        '`"SAME"`, or `padding_mode="CIRCULAR"` with `padding="SAME"`.',
    )


def lift_transpose(
    theirs: eqx.nn.ConvTranspose, scales: Scales
) -> nn.ConvTranspose | nn.Sequential:
    """A transposed convolution, without what its padding cuts off."""
    cut = _cut_by_padding(theirs)
    circular = theirs.padding_mode == "CIRCULAR"
    dilated = any(dilation > 1 for dilation in theirs.dilation)
    lower = circular and theirs.padding != "SAME"
    if theirs.groups > 1 or dilated or lower or any(min(ends) < 0 for ends in cut):
        raise LayerError(
            theirs,
            f"has `groups={theirs.groups}`, `dilation={theirs.dilation}`, "
            f"`padding={theirs.padding}` ({theirs.padding_mode}) and "
            f"`output_padding={theirs.output_padding}`, which have no counterpart "
            'together. Use one group, no dilation, `"SAME"` with circular padding, and '
            "less output padding.",
        )
    ours = nn.ConvTranspose(
        theirs.out_channels,
        theirs.kernel_size,
        theirs.stride,
        "CIRCULAR" if circular else "VALID",
        **scales.options(theirs),
    )
    ours = scales.carried(ours, theirs)
    if circular or not any(map(any, cut)):
        return ours
    inside = tuple(slice(low, -high or None) for low, high in cut)
    return nn.Sequential([ours, nn.Index(inside)])


def _cut_by_padding(theirs: eqx.nn.ConvTranspose) -> list[tuple[int, int]]:
    """By how much the output is shorter than without padding, at either end.

    The padding belongs to the convolution whose transpose this is.
    """
    cut, padding = [], cast(Any, theirs.padding)
    for axis, (k, s, more) in enumerate(
        zip(theirs.kernel_size, theirs.stride, theirs.output_padding, strict=True)
    ):
        low, high = 0, 0
        if padding in ("SAME", "SAME_LOWER"):
            total, more = max(k - s + more, 0), max(s - k - more, 0)
            low = (total + (padding == "SAME_LOWER")) // 2
            high = total - low
        elif padding != "VALID":
            low, high = padding[axis]
        cut.append((low, high + max(s - k, 0) - more))
    return cut
