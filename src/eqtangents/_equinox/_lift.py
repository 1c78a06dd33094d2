"""The network for a model."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax

from eqtangents import nn
from eqtangents._equinox._affine import (
    Scales,
    lift_conv,
    lift_embedding,
    lift_linear,
    lift_transpose,
)
from eqtangents._equinox._functions import is_mean, lift_function, name_of
from eqtangents._equinox._plain import (
    lift_adaptive_avg_pool,
    lift_avg_pool,
    lift_dropout,
    lift_group_norm,
    lift_identity,
    lift_layer_norm,
    lift_max_pool,
    lift_prelu,
    lift_rms_norm,
)
from eqtangents.nn._layer import LayerError, error_path


def lift(theirs: Any, scales: Scales) -> nn.AbstractLayer:
    """The layer for a part of a model."""
    if isinstance(theirs, nn.AbstractLayer):
        return theirs
    # By the very type: a subclass may do anything.
    if rule := _LIFTS.get(type(theirs)):
        return rule(theirs, scales)
    if why := _REFUSED.get(type(theirs)):
        raise LayerError(theirs, why)
    if not callable(theirs):
        raise LayerError(theirs, "is no layer, but a value that cannot be called.")
    return lift_function(theirs)


def _lift_sequential(theirs: eqx.nn.Sequential, scales: Scales) -> nn.Sequential:
    layers, axes = [], None
    for i, layer in enumerate(theirs.layers):
        with error_path(f"layers[{i}]"):
            layers.append(lift(layer, scales))
            if isinstance(layers[-1], nn.GlobalAvgPool) and axes is not None:
                _check_mean(layer, axes)
        axes = getattr(layer, "num_spatial_dims", axes)
    return nn.Sequential(layers)


def _check_mean(theirs: Any, positional_axes: int) -> None:
    """Raise for a mean that leaves some positions of the layer before it."""
    fn = theirs.fn if isinstance(theirs, eqx.nn.Lambda) else theirs
    if isinstance(fn, eqx.Module) or is_mean(fn, positional_axes):
        return
    raise LayerError(
        fn,
        f"`{name_of(fn)}` is the mean over some of the {positional_axes} axes of "
        "positions that it is given, which has no counterpart. Take the mean over all "
        "of them.",
    )


def _lift_lambda(theirs: eqx.nn.Lambda, scales: Scales) -> nn.AbstractLayer:
    with error_path("fn"):
        return lift(theirs.fn, scales)


def _lift_mlp(theirs: eqx.nn.MLP, scales: Scales) -> nn.Sequential:
    affine = [lift_linear(layer, scales) for layer in _unstacked(theirs)]
    if theirs.depth == 0:  # Equinox applies no activation then, not even the last.
        return nn.Sequential(affine)
    for name in ("activation", "final_activation"):
        if any(map(eqx.is_array, jax.tree.leaves(getattr(theirs, name)))):
            with error_path(name):
                raise LayerError(
                    getattr(theirs, name),
                    "has parameters, and so `equinox.nn.MLP` gives each neuron its "
                    "own. Use a function without, or write the model as a "
                    "`Sequential`.",
                )
    with error_path("activation"):
        between = lift(theirs.activation, scales)
    with error_path("final_activation"):
        last = lift(theirs.final_activation, scales)
    layers = [layer for one in affine[:-1] for layer in (one, between)]
    return nn.Sequential([*layers, affine[-1], last])


def _unstacked(theirs: eqx.nn.MLP) -> Sequence[eqx.nn.Linear]:
    """The layers one by one, also where `scan=True` keeps the hidden ones in one."""
    if not theirs.scan or theirs.depth == 0:
        return theirs.layers
    first, hidden, last = theirs.layers
    each = range(theirs.depth - 1)
    return [
        first,
        *(jax.tree.map(lambda leaf, i=i: leaf[i], hidden) for i in each),
        last,
    ]


_LIFTS: dict[type, Callable[[Any, Scales], nn.AbstractLayer]] = {
    eqx.nn.Sequential: _lift_sequential,
    eqx.nn.Lambda: _lift_lambda,
    eqx.nn.MLP: _lift_mlp,
    eqx.nn.Linear: lift_linear,
    eqx.nn.Embedding: lift_embedding,
    eqx.nn.Conv: lift_conv,
    eqx.nn.Conv1d: lift_conv,
    eqx.nn.Conv2d: lift_conv,
    eqx.nn.Conv3d: lift_conv,
    eqx.nn.ConvTranspose: lift_transpose,
    eqx.nn.ConvTranspose1d: lift_transpose,
    eqx.nn.ConvTranspose2d: lift_transpose,
    eqx.nn.ConvTranspose3d: lift_transpose,
    eqx.nn.AvgPool1d: lift_avg_pool,
    eqx.nn.AvgPool2d: lift_avg_pool,
    eqx.nn.AvgPool3d: lift_avg_pool,
    eqx.nn.MaxPool1d: lift_max_pool,
    eqx.nn.MaxPool2d: lift_max_pool,
    eqx.nn.MaxPool3d: lift_max_pool,
    eqx.nn.AdaptiveAvgPool1d: lift_adaptive_avg_pool,
    eqx.nn.AdaptiveAvgPool2d: lift_adaptive_avg_pool,
    eqx.nn.AdaptiveAvgPool3d: lift_adaptive_avg_pool,
    eqx.nn.LayerNorm: lift_layer_norm,
    eqx.nn.RMSNorm: lift_rms_norm,
    eqx.nn.GroupNorm: lift_group_norm,
    eqx.nn.Dropout: lift_dropout,
    eqx.nn.PReLU: lift_prelu,
    eqx.nn.Identity: lift_identity,
}

# What has no counterpart, and what to do about it.
_REFUSED: dict[type, str] = {
    eqx.nn.MultiheadAttention: (
        "divides by the root of the number of key channels, so that its weights stay "
        "random in wide networks and there is no kernel in closed form. Use "
        "`eqtangents.nn.GlobalSelfAttention`, whose `linear_scaling` has one; its "
        "positions come after the channels."
    ),
    eqx.nn.BatchNorm: (
        "keeps statistics of other examples, and has no kernel in closed form. Use "
        "`LayerNorm` or `GroupNorm`."
    ),
    eqx.nn.Shared: (
        "uses parameters in several places, but each layer of a kernel has weights of "
        "its own. Use `eqtangents.nn.Repeat` to repeat an architecture."
    ),
}
