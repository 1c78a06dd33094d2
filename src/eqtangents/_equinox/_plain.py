"""Layers without weights."""

from typing import Any

import equinox as eqx

from eqtangents import nn
from eqtangents._equinox._affine import Scales, with_parameters
from eqtangents._types import Padding
from eqtangents.nn._layer import LayerError


def lift_avg_pool(theirs: Any, scales: Scales) -> nn.AvgPool:
    """Means over windows."""
    return nn.AvgPool(theirs.kernel_size, theirs.stride, _pool_padding(theirs))


def lift_max_pool(theirs: Any, scales: Scales) -> nn.MaxPool:
    """Maxima over windows."""
    return nn.MaxPool(theirs.kernel_size, theirs.stride, _pool_padding(theirs))


def _pool_padding(theirs: eqx.nn.Pool) -> Padding:
    if theirs.use_ceil and any(stride > 1 for stride in theirs.stride):
        raise LayerError(
            theirs,
            "pads as much as the size of its input makes necessary, by `use_ceil`. "
            "Give that as `padding`, with `use_ceil=False`.",
        )
    return theirs.padding


def lift_adaptive_avg_pool(theirs: Any, scales: Scales) -> nn.GlobalAvgPool:
    """The mean over all positions, if there is but one window."""
    if any(size > 1 for size in theirs.target_shape):
        raise LayerError(
            theirs,
            f"has windows for {theirs.target_shape} outputs, which depend on the size "
            "of the input. Use `AvgPool` with a `kernel_size`, or a target of 1.",
        )
    return nn.GlobalAvgPool()


def lift_layer_norm(theirs: eqx.nn.LayerNorm, scales: Scales) -> nn.LayerNorm:
    """A normalisation, if each channel has one gain."""
    if len(theirs.shape) > 1 and (theirs.use_weight or theirs.use_bias):
        raise LayerError(
            theirs,
            f"learns gains and offsets of shape {theirs.shape}, one for each channel "
            "and position. Use `use_weight=False` and `use_bias=False`, or "
            "`GroupNorm(1, channels)` for one for each channel.",
        )
    ours = nn.LayerNorm(
        tuple(range(len(theirs.shape))),
        eps=theirs.eps,
        use_weight=theirs.use_weight,
        use_bias=theirs.use_bias,
    )
    return with_parameters(ours, theirs.weight, theirs.bias)


def lift_rms_norm(theirs: eqx.nn.RMSNorm, scales: Scales) -> nn.RMSNorm:
    """A normalisation of vectors."""
    if len(theirs.shape) > 1:
        raise LayerError(
            theirs,
            f"normalises over all of {theirs.shape} at once, where `nn.RMSNorm` is of "
            "the channels at each position. Use `LayerNorm`.",
        )
    ours = nn.RMSNorm(
        eps=theirs.eps, use_weight=theirs.use_weight, use_bias=theirs.use_bias
    )
    return with_parameters(ours, theirs.weight, theirs.bias)


def lift_group_norm(theirs: eqx.nn.GroupNorm, scales: Scales) -> nn.GroupNorm:
    """A normalisation of groups."""
    affine = theirs.channelwise_affine
    ours = nn.GroupNorm(
        theirs.groups, eps=theirs.eps, use_weight=affine, use_bias=affine
    )
    return with_parameters(ours, theirs.weight, theirs.bias)


def lift_dropout(theirs: eqx.nn.Dropout, scales: Scales) -> nn.Dropout:
    """Dropout."""
    return nn.Dropout(float(theirs.p), theirs.inference)


def lift_prelu(theirs: eqx.nn.PReLU, scales: Scales) -> nn.LeakyRelu:
    """A rectifier with the slope that it has now."""
    if theirs.negative_slope.ndim:
        raise LayerError(
            theirs,
            f"has slopes of shape {theirs.negative_slope.shape}, but the kernel is "
            "known for one slope of all channels. Use `PReLU()` with a single number.",
        )
    return nn.LeakyRelu(theirs.negative_slope)


def lift_identity(theirs: eqx.nn.Identity, scales: Scales) -> nn.Identity:
    """Nothing."""
    return nn.Identity()
