"""Hypothesis strategies for small networks that are legal in the infinite-width limit.

Sizes are tiny, so that brute force can follow, and awkward on purpose: odd sizes,
windows larger than the image, strides that leave a rest, dilated windows that miss it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

from eqtangents import nn


Draw = Callable[[st.SearchStrategy], Any]

MAX_POSITIONS = 30
_CHANNELS = st.sampled_from([2, 3, 4, 6])
_STRIDE = st.sampled_from([1, 1, 1, 2, 3])  # mostly 1: few positions survive the others


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and the shape of one example."""

    net: Any
    input_shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Activation:
    """What decides which layers may follow."""

    channels: int
    sizes: tuple[int, ...]
    gaussian: (
        bool  # centred and Gaussian: nonlinearities and sums of branches need that
    )

    @property
    def positions(self) -> int:
        return math.prod(self.sizes)


@st.composite
def networks(draw: Draw) -> Network:
    """Networks for vectors, sequences, images and (rarely, tiny) volumes."""
    sizes = draw(_sizes())
    # One channel would make all correlations of the input +-1, where the derivative of
    # a rectifier amplifies rounding to its square root.
    activation = _Activation(draw(st.sampled_from([2, 3])), sizes, gaussian=False)
    input_shape = (activation.channels, *sizes)
    layers = []
    for _ in range(draw(st.integers(1, 4))):
        layer, activation = _block(draw, activation)
        layers.append(layer)
    if readout := draw(
        st.sampled_from([None, nn.GlobalAvgPool, nn.GlobalSumPool, nn.Flatten])
    ):
        layers.append(readout())
        flat = readout is nn.Flatten
        channels = activation.channels * (activation.positions if flat else 1)
        activation = _Activation(channels, (), activation.gaussian and not flat)
    for _ in range(draw(st.integers(0, 2))):
        if activation.gaussian:
            layers.append(draw(_nonlinearities()))
        layer, activation = _linear(draw, activation, draw(_CHANNELS))
        layers.append(layer)
    return Network(nn.Sequential(layers), input_shape)


@st.composite
def _sizes(draw: Draw) -> tuple[int, ...]:
    rank = draw(st.sampled_from([2, 2, 2, 2, 1, 1, 1, 0, 3]))
    sizes: list[int] = []
    for _ in range(rank):
        room = MAX_POSITIONS // math.prod(sizes)
        choices = [3, 4, 5, 2, 6, 7, 1] if rank < 3 else [2, 3, 1]
        sizes.append(draw(st.sampled_from([n for n in choices if n <= room])))
    return tuple(draw(st.permutations(sizes)))


def _block(draw: Draw, activation: _Activation) -> tuple[Any, _Activation]:
    kinds = [_affine, _residual, _fan_in, _repeat]
    kinds += [_nonlinear_block] * 2 if activation.gaussian else [_affine] * 2
    kinds += [_pool] * 2 if activation.sizes else []
    return draw(st.sampled_from(kinds))(draw, activation)


# Single layers. Each takes what it acts on and returns a layer and what comes out.


def _nonlinearities() -> st.SearchStrategy:
    slopes = st.sampled_from([-0.5, 0.1, 0.7, 1.5])
    return st.one_of(
        st.builds(nn.Relu),
        st.builds(nn.Abs),
        st.builds(nn.LeakyRelu, slopes),
        st.builds(nn.ABRelu, slopes, slopes),
        st.builds(nn.Erf),
        st.builds(
            nn.Erf,
            st.sampled_from([0.5, 1.3]),
            st.sampled_from([0.4, 2.0]),
            st.sampled_from([0.0, -0.6]),
        ),
    )


def _nonlinear_block(draw: Draw, activation: _Activation) -> tuple[Any, _Activation]:
    return draw(_nonlinearities()), dataclasses.replace(activation, gaussian=False)


def _weights(draw: Draw, channels: int) -> tuple[int, dict[str, Any]]:
    """Width and options of an affine layer that has `channels` outputs in all."""
    options = {
        "weight_std": draw(st.sampled_from([0.7, 1.0, 1.6])),
        "bias_std": draw(st.sampled_from([None, 0.3, 1.1])),
    }
    if draw(st.sampled_from([True, True, False])):
        return channels, options
    out = draw(st.sampled_from([m for m in (1, 2, 3) if channels % m == 0]))
    multipliers = (draw(st.integers(1, 3)), out)
    standard = {"parameterization": "standard", "width_multipliers": multipliers}
    return channels // out, options | standard


def _linear(
    draw: Draw, activation: _Activation, channels: int
) -> tuple[Any, _Activation]:
    width, options = _weights(draw, channels)
    return nn.Linear(width, **options), _Activation(
        channels, activation.sizes, gaussian=True
    )


def _affine(draw: Draw, activation: _Activation) -> tuple[Any, _Activation]:
    """A dense layer or a convolution of any kind."""
    channels = draw(_CHANNELS)
    padding = draw(st.sampled_from(["VALID", "SAME", "CIRCULAR"]))
    if padding != "VALID" or not activation.sizes:
        stride = tuple(draw(_STRIDE) for _ in activation.sizes)
        return _covering(draw, activation, channels, stride, padding)
    axes = []
    for size in activation.sizes:
        dilation = draw(st.integers(1, 2))
        kernel = draw(st.integers(1, min(4, (size - 1) // dilation + 1)))
        axes.append((kernel, draw(_STRIDE), dilation))
    kernel, stride, dilation = zip(*axes, strict=True)
    return _conv(draw, activation, channels, kernel, stride, dilation, padding)


def _covering(
    draw: Draw,
    activation: _Activation,
    channels: int,
    stride: tuple[int, ...],
    padding: str | None = None,
) -> tuple[Any, _Activation]:
    """An affine layer whose output sizes follow from `stride`, as branches need."""
    if all(s == 1 for s in stride) and (not stride or draw(st.integers(0, 3)) == 3):
        return _linear(draw, activation, channels)
    kernel = tuple(draw(st.integers(1, 4)) for _ in stride)
    dilation = tuple(draw(st.integers(1, 2)) for _ in stride)
    padding = padding or draw(st.sampled_from(["SAME", "CIRCULAR"]))
    return _conv(draw, activation, channels, kernel, stride, dilation, padding)


def _conv(
    draw: Draw,
    activation: _Activation,
    channels: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: str,
) -> tuple[Any, _Activation]:
    width, options = _weights(draw, channels)
    layer = nn.Conv(
        width,
        draw(_spelled(kernel)),
        draw(_spelled(stride)),
        padding,
        dilation=draw(_spelled(dilation)),
        tap_variances=draw(_tap_variances(kernel)),
        **options,
    )
    extents = [(f - 1) * d + 1 for f, d in zip(kernel, dilation, strict=True)]
    sizes = _out_sizes(activation.sizes, extents, stride, padding)
    return layer, _Activation(channels, sizes, gaussian=True)


def _tap_variances(kernel: tuple[int, ...]) -> st.SearchStrategy:
    """One for each tap, as constants or as an array; zeros among them, or one alone."""
    taps = math.prod(kernel)
    entries = st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.0]), min_size=taps)
    drawn = entries.map(lambda some: np.reshape(some[:taps], kernel))
    given = drawn.filter(np.any)
    kinds = [st.none(), given, given.map(jnp.asarray)]
    if len(set(kernel)) == 1:
        kinds.append(st.just(tuple(range(1, kernel[0] + 1))))
    return st.one_of(kinds)


def _spelled(values: tuple[int, ...]) -> st.SearchStrategy:
    """One number stands for all axes, where it can."""
    return st.sampled_from([values[0], values] if len(set(values)) == 1 else [values])


def _out_sizes(
    sizes: tuple[int, ...], extents: list[int], stride: tuple[int, ...], padding: str
) -> tuple[int, ...]:
    if padding != "VALID":
        return tuple(math.ceil(n / s) for n, s in zip(sizes, stride, strict=True))
    axes = zip(sizes, extents, stride, strict=True)
    return tuple((size - extent) // s + 1 for size, extent, s in axes)


def _pool(draw: Draw, activation: _Activation) -> tuple[Any, _Activation]:
    padding = draw(st.sampled_from(["VALID", "SAME", "CIRCULAR"]))
    kernel = tuple(draw(_pool_window(size, padding)) for size in activation.sizes)
    stride = tuple(draw(_STRIDE) for _ in activation.sizes)
    arguments = draw(_spelled(kernel)), draw(_spelled(stride)), padding
    if draw(st.booleans()):
        layer = nn.SumPool(*arguments)
    else:
        layer = nn.AvgPool(*arguments, normalize_edges=draw(st.booleans()))
    sizes = _out_sizes(activation.sizes, list(kernel), stride, padding)
    return layer, dataclasses.replace(activation, sizes=sizes)


def _pool_window(size: int, padding: str) -> st.SearchStrategy:
    """Windows that do not make two positions equal: see the remark on one channel."""
    if size == 1 and padding != "VALID":
        return st.integers(1, 4)
    if padding == "CIRCULAR":
        return st.sampled_from([f for f in range(1, 5) if f % size])
    return st.integers(1, min(4, size if padding == "VALID" else size - 1))


# Blocks with branches.


def _branch(
    draw: Draw, activation: _Activation, channels: int, stride: tuple[int, ...]
) -> tuple[list[Any], _Activation]:
    """Layers that end in an affine one, with the given channels and strides in all."""
    layers = []
    if activation.gaussian and draw(st.booleans()):
        layers.append(draw(_nonlinearities()))
    layer, activation = _covering(draw, activation, channels, stride)
    layers.append(layer)
    if draw(st.booleans()):
        layers.append(draw(_nonlinearities()))
        layer, activation = _covering(draw, activation, channels, (1,) * len(stride))
        layers.append(layer)
    return layers, activation


def _strides(draw: Draw, activation: _Activation) -> tuple[int, ...]:
    if draw(st.booleans()):
        return (1,) * len(activation.sizes)
    return tuple(draw(st.integers(1, 2)) for _ in activation.sizes)


def _residual(draw: Draw, activation: _Activation) -> tuple[Any, _Activation]:
    stride = _strides(draw, activation)
    shape_kept = all(s == 1 for s in stride)
    if shape_kept and draw(st.booleans()):
        main, _ = _branch(draw, activation, activation.channels, stride)
        return nn.Residual(nn.Sequential(main)), activation
    channels = draw(_CHANNELS)
    main, out = _branch(draw, activation, channels, stride)
    shortcut, _ = _covering(draw, activation, channels, stride)
    return nn.Residual(nn.Sequential(main), shortcut), out


def _fan_in(draw: Draw, activation: _Activation) -> tuple[Any, _Activation]:
    """`FanOut`, branches, and one of the ways to join them."""
    ways = [_join_sum, _join_prod, _join_channels, _join_extreme]
    if activation.sizes and 2 * activation.positions <= MAX_POSITIONS:
        ways.append(_join_positions)
    branches, join, out = draw(st.sampled_from(ways))(draw, activation)
    layers = [nn.FanOut(len(branches)), nn.Parallel(branches), join]
    return nn.Sequential(layers), out


def _join_sum(
    draw: Draw, activation: _Activation
) -> tuple[list[Any], Any, _Activation]:
    stride, channels = _strides(draw, activation), draw(_CHANNELS)
    branches = []
    for _ in range(draw(st.integers(2, 3))):
        layers, out = _branch(draw, activation, channels, stride)
        branches.append(nn.Sequential(layers))
    if dataclasses.replace(activation, gaussian=True) == out and draw(st.booleans()):
        return [*branches, nn.Identity()], nn.FanInSum(), activation
    return branches, nn.FanInSum(), out


def _join_extreme(
    draw: Draw, activation: _Activation
) -> tuple[list[Any], Any, _Activation]:
    stride, channels = _strides(draw, activation), draw(_CHANNELS)
    branches = []
    for _ in range(2):
        layers, out = _branch(draw, activation, channels, stride)
        branches.append(nn.Sequential(layers))
    kind = draw(st.sampled_from([nn.FanInMax, nn.FanInMin]))
    return branches, kind(), dataclasses.replace(out, gaussian=False)


def _join_prod(
    draw: Draw, activation: _Activation
) -> tuple[list[Any], Any, _Activation]:
    stride, channels = _strides(draw, activation), draw(_CHANNELS)
    branches = []
    for _ in range(draw(st.integers(2, 3))):
        layers, out = _branch(draw, activation, channels, stride)
        layers += [draw(_nonlinearities())] if draw(st.booleans()) else []
        branches.append(nn.Sequential(layers))
    return branches, nn.FanInProd(), dataclasses.replace(out, gaussian=False)


def _join_channels(
    draw: Draw, activation: _Activation
) -> tuple[list[Any], Any, _Activation]:
    stride, total = _strides(draw, activation), 0
    branches = []
    for _ in range(draw(st.integers(2, 3))):
        layers, out = _branch(draw, activation, draw(_CHANNELS), stride)
        layers += [draw(_nonlinearities())] if draw(st.booleans()) else []
        branches.append(nn.Sequential(layers))
        total += out.channels
    return branches, nn.FanInConcat(0), _Activation(total, out.sizes, gaussian=False)


def _join_positions(
    draw: Draw, activation: _Activation
) -> tuple[list[Any], Any, _Activation]:
    stride, channels = _strides(draw, activation), draw(_CHANNELS)
    axis = draw(st.integers(0, len(stride) - 1))
    branches, length = [], 0
    for _ in range(2):
        own = draw(st.integers(1, 2))  # lengths along the axis may differ
        branch_stride = (*stride[:axis], own, *stride[axis + 1 :])
        layers, out = _branch(draw, activation, channels, branch_stride)
        branches.append(nn.Sequential(layers))
        length += out.sizes[axis]
    sizes = (*out.sizes[:axis], length, *out.sizes[axis + 1 :])
    return (
        branches,
        nn.FanInConcat(axis + 1),
        _Activation(channels, sizes, gaussian=True),
    )


def _repeat(draw: Draw, activation: _Activation) -> tuple[Any, _Activation]:
    """A block that keeps the shape, two or three times."""
    stride = (1,) * len(activation.sizes)
    affine, out = _covering(draw, activation, activation.channels, stride)
    if activation.gaussian and draw(st.booleans()):
        layers = [draw(_nonlinearities()), affine]
    else:
        layers, out = (
            [affine, draw(_nonlinearities())],
            dataclasses.replace(out, gaussian=False),
        )
    return nn.Repeat(nn.Sequential(layers), draw(st.integers(2, 3))), out
