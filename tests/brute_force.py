"""NNGP and NTK of a network by the textbook, in NumPy float64: slow and plain.

Both batches are stacked into one of `n` examples, and every layer maps the full array
of moments `(n, n, *positions, *positions)` to the next one. Nothing is skipped, tiled
or reused, so that there is nothing to get wrong but the formulas themselves.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

import reference_activations
from eqtangents import nn


@dataclasses.dataclass(frozen=True)
class Moments:
    """Per-channel moments of an activation, for all pairs of examples and positions."""

    nngp: np.ndarray  # (n, n, *positions, *positions)
    ntk: np.ndarray
    channels: (
        int  # matters to the standard parameterization and to channel concatenation
    )
    raw: np.ndarray | None = None  # of the input of the network: the examples

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.nngp.shape[2 : 2 + (self.nngp.ndim - 2) // 2]

    def map(
        self, rule: Callable[[np.ndarray], np.ndarray], channels: int | None = None
    ):
        """The same linear rule on both kernels."""
        channels = self.channels if channels is None else channels
        return Moments(rule(self.nngp), rule(self.ntk), channels)


def kernels(net: Any, x1: Any, x2: Any = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """`(nngp, ntk)` of each output of `net`; inputs as for `eqtangents.kernel`."""
    multi = isinstance(x1, tuple)
    firsts = x1 if multi else (x1,)
    seconds = firsts if x2 is None else (x2 if multi else (x2,))
    n1 = len(firsts[0])
    inputs = [
        _input(np.concatenate(pair)) for pair in zip(firsts, seconds, strict=True)
    ]
    out = propagate(net, inputs if multi else inputs[0])
    outputs = out if isinstance(out, list) else [out]
    return [(m.nngp[:n1, n1:], m.ntk[:n1, n1:]) for m in outputs]


def _input(x: Any) -> Moments:
    x = np.asarray(x, dtype=np.float64)
    n, channels, *sizes = x.shape
    raw, x = x, x.reshape(n, channels, -1)
    nngp = np.zeros((n, n, x.shape[-1], x.shape[-1]))
    for channel in range(channels):
        nngp += np.einsum("ap,bq->abpq", x[:, channel], x[:, channel]) / channels
    nngp = nngp.reshape(n, n, *sizes, *sizes)
    return Moments(nngp, np.zeros_like(nngp), channels, raw)


@functools.singledispatch
def propagate(layer: Any, moments: Any) -> Any:
    """Moments, or a list of them, after `layer`."""
    raise TypeError(f"no brute force for {type(layer).__name__}")


# Composition.


@propagate.register
def _(layer: nn.Sequential, moments: Any) -> Any:
    for inner in layer.layers:
        raw = getattr(moments, "raw", None)
        if isinstance(inner, nn.AbstractActivation) and raw is not None:
            moments = _input(inner(jnp.asarray(raw, float)))
        else:
            moments = propagate(inner, moments)
    return moments


@propagate.register
def _(layer: nn.Parallel, moments: list[Moments]) -> list[Moments]:
    return [propagate(*branch) for branch in zip(layer.layers, moments, strict=True)]


@propagate.register
def _(layer: nn.Repeat, moments: Moments) -> Moments:
    for _ in range(layer.n):
        moments = propagate(layer.layer, moments)
    return moments


@propagate.register
def _(layer: nn.Residual, moments: Moments) -> Moments:
    shortcut = moments if layer.shortcut is None else propagate(layer.shortcut, moments)
    return propagate(nn.FanInSum(), [propagate(layer.main, moments), shortcut])


@propagate.register
def _(layer: nn.Identity, moments: Moments) -> Moments:
    return moments


@propagate.register
def _(layer: nn.FanOut, moments: Moments) -> list[Moments]:
    return [moments] * layer.n


@propagate.register
def _(layer: nn.FanInSum, moments: list[Moments]) -> Moments:
    nngp = sum(branch.nngp for branch in moments)
    return Moments(nngp, sum(branch.ntk for branch in moments), moments[0].channels)


@propagate.register(nn.FanInMax)
@propagate.register(nn.FanInMin)
def _(layer: Any, moments: list[Moments]) -> Moments:
    """By both halves of the plane, on each of which one branch is what is passed on."""
    one, other = moments
    difference = propagate(nn.FanInSum(), moments)
    larger = propagate(nn.Relu(), dataclasses.replace(difference, ntk=one.ntk))
    smaller = propagate(nn.Relu(), dataclasses.replace(difference, ntk=other.ntk))
    return Moments(larger.nngp, larger.ntk + smaller.ntk, one.channels)


@propagate.register
def _(layer: nn.FanInProd, moments: list[Moments]) -> Moments:
    nngp = math.prod(branch.nngp for branch in moments)
    ntk = np.zeros_like(nngp)
    for i, branch in enumerate(moments):
        others = moments[:i] + moments[i + 1 :]
        ntk += branch.ntk * math.prod(other.nngp for other in others)
    return Moments(nngp, ntk, moments[0].channels)


@propagate.register
def _(layer: nn.FanInConcat, moments: list[Moments]) -> Moments:
    if layer.axis == 0:
        channels = sum(branch.channels for branch in moments)
        nngp = sum(branch.nngp * branch.channels for branch in moments) / channels
        ntk = sum(branch.ntk * branch.channels for branch in moments) / channels
        return Moments(nngp, ntk, channels)
    axis = layer.axis - 1
    rank = len(moments[0].sizes)
    lengths = [branch.sizes[axis] for branch in moments]
    first = moments[0]
    shape = list(first.nngp.shape)
    shape[2 + axis] = shape[2 + rank + axis] = sum(lengths)
    nngp, ntk = (
        np.zeros(shape),
        np.zeros(shape),
    )  # branches are independent of each other
    start = 0
    for branch, length in zip(moments, lengths, strict=True):
        place = [slice(None)] * len(shape)
        place[2 + axis] = place[2 + rank + axis] = slice(start, start + length)
        nngp[tuple(place)], ntk[tuple(place)] = branch.nngp, branch.ntk
        start += length
    return Moments(nngp, ntk, first.channels)


# Affine layers.


@propagate.register
def _(layer: nn.Linear, moments: Moments) -> Moments:
    channels = layer.parameterization.channels(layer.out_features)
    return _affine(layer, moments, moments.nngp, moments.channels, channels)


@propagate.register
def _(layer: nn.Conv, moments: Moments) -> Moments:
    rank = len(moments.sizes)
    kernel = _per_axis(layer.kernel_size, rank)
    windows = _windows(
        moments.sizes,
        kernel,
        _per_axis(layer.stride, rank),
        _per_axis(layer.dilation, rank),
        layer.padding,
    )

    def average(cov: np.ndarray, variances: np.ndarray) -> np.ndarray:
        out_sizes = windows.shape
        out = np.zeros((*cov.shape[:2], *out_sizes, *out_sizes))
        for p in np.ndindex(out_sizes):
            for q in np.ndindex(out_sizes):
                # One weight for each offset, so both windows are read at the same one.
                for u, v, share in zip(windows[p], windows[q], variances, strict=True):
                    if u is not None and v is not None:
                        out[:, :, *p, *q] += cov[:, :, *u, *v] * share
        return out

    channels = layer.parameterization.channels(layer.out_channels)
    fan_in = moments.channels * math.prod(kernel)
    variances = _tap_variances(layer, kernel)
    drawn = moments.map(lambda cov: average(cov, variances))
    # Standard parameters are not multiplied by their deviations: all taps train alike.
    seen = average(moments.nngp, np.full(len(variances), 1 / len(variances)))
    return _affine(layer, drawn, seen, fan_in, channels)


def _tap_variances(layer: nn.Conv, kernel: tuple[int, ...]) -> np.ndarray:
    """The share of each tap in the variance, in the order of offsets."""
    if layer.tap_variances is None:
        return np.full(math.prod(kernel), 1 / math.prod(kernel))
    variances = np.asarray(layer.tap_variances, float)
    if variances.ndim == 1:
        variances = functools.reduce(np.multiply.outer, [variances] * len(kernel))
    return variances.ravel() / variances.sum()


def _affine(
    layer: nn.Linear | nn.Conv,
    averaged: Moments,
    seen: np.ndarray,
    fan_in: int,
    channels: int,
) -> Moments:
    weight_var = float(layer.weight_std) ** 2
    bias_var = 0.0 if layer.bias_std is None else float(layer.bias_std) ** 2
    nngp = weight_var * averaged.nngp + bias_var
    ntk = weight_var * averaged.ntk
    if isinstance(layer.parameterization, nn.NTK):
        ntk = ntk + nngp
    else:
        assert isinstance(layer.parameterization, nn.Standard)
        wider, _ = layer.parameterization.width_multipliers
        ntk = ntk + fan_in / wider * seen
        ntk = ntk + (0 if layer.bias_std is None else 1)
    return Moments(nngp, ntk, channels)


# Linear layers without weights.


@propagate.register
def _(layer: nn.AvgPool, moments: Moments) -> Moments:
    rank = len(moments.sizes)
    full = math.prod(_per_axis(layer.kernel_size, rank))

    def weight(inside: int) -> float:
        return 1 / (inside if layer.normalize_edges else full)

    return _windowed_pool(layer, moments, weight)


@propagate.register
def _(layer: nn.SumPool, moments: Moments) -> Moments:
    return _windowed_pool(layer, moments, lambda inside: 1.0)


def _windowed_pool(
    layer: nn.AvgPool | nn.SumPool, moments: Moments, weight: Callable[[int], float]
) -> Moments:
    rank = len(moments.sizes)
    windows = _windows(
        moments.sizes,
        _per_axis(layer.kernel_size, rank),
        _per_axis(layer.stride, rank),
        (1,) * rank,
        layer.padding,
    )
    # matrix[p, u]: weight of input position u in output position p.
    matrix = np.zeros((*windows.shape, *moments.sizes))
    for p in np.ndindex(windows.shape):
        inside = [u for u in windows[p] if u is not None]
        for u in inside:
            matrix[(*p, *u)] += weight(len(inside))
    matrix = matrix.reshape(windows.size, math.prod(moments.sizes))

    def pool(cov: np.ndarray) -> np.ndarray:
        pooled = np.einsum("pu,abuv,qv->abpq", matrix, _flat(cov), matrix)
        return pooled.reshape(*cov.shape[:2], *windows.shape, *windows.shape)

    return moments.map(pool)


@propagate.register
def _(layer: nn.GlobalAvgPool, moments: Moments) -> Moments:
    return moments.map(lambda cov: np.mean(_flat(cov), axis=(2, 3)))


@propagate.register
def _(layer: nn.GlobalSumPool, moments: Moments) -> Moments:
    return moments.map(lambda cov: np.sum(_flat(cov), axis=(2, 3)))


@propagate.register
def _(layer: nn.Flatten, moments: Moments) -> Moments:
    def mean_over_equal_positions(cov: np.ndarray) -> np.ndarray:
        cov = _flat(cov)
        return np.einsum("abpp->ab", cov) / cov.shape[-1]

    channels = moments.channels * math.prod(moments.sizes)
    return moments.map(mean_over_equal_positions, channels)


# Nonlinearities.


@propagate.register
def _(layer: nn.Relu, moments: Moments) -> Moments:
    return _piecewise_linear(moments, 0.0, 1.0)


@propagate.register
def _(layer: nn.LeakyRelu, moments: Moments) -> Moments:
    return _piecewise_linear(moments, float(layer.negative_slope), 1.0)


@propagate.register
def _(layer: nn.Abs, moments: Moments) -> Moments:
    return _piecewise_linear(moments, -1.0, 1.0)


@propagate.register
def _(layer: nn.ABRelu, moments: Moments) -> Moments:
    return _piecewise_linear(
        moments, float(layer.negative_slope), float(layer.positive_slope)
    )


def _piecewise_linear(moments: Moments, a: float, b: float) -> Moments:
    """`f(x) = b max(x, 0) - a max(-x, 0)`, by the kernels of Cho & Saul 2009."""

    def dual(
        k: np.ndarray, q1: np.ndarray, q2: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        gap = np.sqrt(np.maximum(q1 * q2 - k**2, 0))
        angle = np.arctan2(gap, k)
        same = (gap + (np.pi - angle) * k) / (2 * np.pi)  # E max(u, 0) max(v, 0)
        opposite = (gap - angle * k) / (2 * np.pi)  # E max(u, 0) max(-v, 0)
        both = (np.pi - angle) / (2 * np.pi)  # P(u > 0, v > 0)
        either = angle / (2 * np.pi)  # P(u > 0, v < 0)
        nngp = (a**2 + b**2) * same - 2 * a * b * opposite
        return nngp, (a**2 + b**2) * both + 2 * a * b * either

    return _elementwise(moments, dual)


@propagate.register
def _(layer: nn.Erf, moments: Moments) -> Moments:
    """`f(x) = a erf(b x) + c`, by the arc-sine kernel of Williams 1997."""
    a, b, c = float(layer.a), float(layer.b), float(layer.c)

    def dual(
        k: np.ndarray, q1: np.ndarray, q2: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        product = (1 + 2 * b**2 * q1) * (1 + 2 * b**2 * q2)
        nngp = a**2 * 2 / np.pi * np.arcsin(2 * b**2 * k / np.sqrt(product)) + c**2
        return nngp, a**2 * b**2 * 4 / np.pi / np.sqrt(product - 4 * b**4 * k**2)

    return _elementwise(moments, dual)


@propagate.register
def _(layer: nn.AbstractActivation, moments: Moments) -> Moments:
    return _elementwise(moments, reference_activations.brute_force(layer))


def _elementwise(
    moments: Moments, dual: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> Moments:
    """`K' = E f(u) f(v)` and `T' = T E f'(u) f'(v)` for centred Gaussian `u`, `v`."""
    cov = _flat(moments.nngp)
    variances = np.einsum("aapp->ap", cov)
    nngp, derivative = dual(
        cov, variances[:, None, :, None], variances[None, :, None, :]
    )
    shape = moments.nngp.shape
    return Moments(
        nngp.reshape(shape), moments.ntk * derivative.reshape(shape), moments.channels
    )


# Positions.


def _flat(cov: np.ndarray) -> np.ndarray:
    """`(n, n, *positions, *positions)` with the positions of each side in one axis."""
    positions = math.isqrt(math.prod(cov.shape[2:]))
    return cov.reshape(*cov.shape[:2], positions, positions)


def _per_axis(value: int | tuple[int, ...], rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _windows(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: str,
) -> np.ndarray:
    """At each output position, the input position under each offset; `None` outside."""
    axes = [
        list(_axis_windows(*axis, padding))
        for axis in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    windows = np.empty([len(axis) for axis in axes], dtype=object)
    for p in np.ndindex(windows.shape):
        along_axes = [axis[i] for axis, i in zip(axes, p, strict=True)]
        windows[p] = [None if None in u else u for u in itertools.product(*along_axes)]
    return windows


def _axis_windows(
    size: int, kernel: int, stride: int, dilation: int, padding: str
) -> Iterator[list[int | None]]:
    extent = (kernel - 1) * dilation + 1
    if padding == "VALID":
        low, out_size = 0, (size - extent) // stride + 1
    else:
        out_size = math.ceil(size / stride)
        low = max((out_size - 1) * stride + extent - size, 0) // 2
    for i in range(out_size):
        reached = [i * stride - low + offset * dilation for offset in range(kernel)]
        if padding == "CIRCULAR":
            yield [u % size for u in reached]
        else:
            yield [u if 0 <= u < size else None for u in reached]
