"""Structure rules of primitives that map an axis by a matrix, often rows of it."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jaxtyping import Array, Bool, Float, Int

from eqtangents._jaxpr import shape_of
from eqtangents.empirical._primitives import only_first, structured
from eqtangents.empirical._views import (
    Argument,
    Dependence,
    Dependences,
    Part,
    RowRange,
    View,
    new_labels,
    value_of,
)


def _some_rows(part: Part, axis: int, start: int, stop: int, stride: int) -> Part:
    """Rows of an axis, from `start` to `stop`."""
    old = part.labels[axis]
    if (start, stop, stride) == (0, old.size, 1):
        return part
    if old in part.root.labels:
        ranges = (*part.ranges, RowRange(old, start, stop))
        part = Part(part.root, part.labels, part.factors, ranges, part.entry)
    return part.along(axis, np.eye(old.size)[start:stop:stride])


@structured(lax.slice_p, unapplied=True)
def _slice_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    if (view := only_first(args)) is None:
        return None
    params = eqn.params
    strides = params["strides"] or (1,) * len(view.shape)
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ranges = list(enumerate(ranges))

    def sliced(part: Part) -> Part:
        for axis, (start, stop, stride) in ranges:
            part = _some_rows(part, axis, start, stop, stride)
        return part

    return [view.mapped(sliced)]


@structured(lax.split_p, unapplied=True)
def _split_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    if (view := only_first(args)) is None:
        return None
    axis, sizes = eqn.params["axis"], list(map(int, eqn.params["sizes"]))
    stops = itertools.accumulate(sizes)
    return [
        view.mapped(
            lambda part, start=stop - size, stop=stop: _some_rows(
                part, axis, start, stop, 1
            )
        )
        for size, stop in zip(sizes, stops, strict=True)
    ]


@structured(lax.dynamic_slice_p, unapplied=True)
def _dynamic_slice_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    if (view := only_first(args)) is None:
        return None
    starts, sizes = map(value_of, args[1:]), eqn.params["slice_sizes"]
    cuts = list(enumerate(zip(starts, sizes, view.shape, strict=True)))

    def sliced(part: Part) -> Part:
        for axis, (start, count, size) in cuts:
            if count != size:
                start = jnp.clip(jnp.asarray(start), 0, size - count)
                part = part.along(axis, _rows_from(start, count, size, view.dtype))
        return part

    return [view.mapped(sliced)]


def _rows_from(
    start: Int[Array, ""], count: int, size: int, dtype: jnp.dtype
) -> Float[Array, "count size"]:
    """A matrix that picks `count` of `size` rows from `start` on."""
    picked = start + jnp.arange(count, dtype=start.dtype)
    return (picked[:, None] == jnp.arange(size, dtype=picked.dtype)[None]).astype(dtype)


@structured(lax.gather_p, unapplied=True)
def _gather_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    """Rows of a table, as in an embedding."""
    if (view := only_first(args)) is None:
        return None
    indices = jnp.asarray(value_of(args[1]))
    axis = _gathered_axis(eqn, view.shape)
    if axis is None:
        return None
    size, index = view.shape[axis], indices[..., 0]
    if eqn.params["mode"] == lax.GatherScatterMode.CLIP:
        index = jnp.clip(index, 0, size - 1)
    rows = jax.nn.one_hot(index, size, dtype=view.dtype)
    out_rank = len(shape_of(eqn.outvars[0]))
    offset = eqn.params["dimension_numbers"].offset_dims
    where = [k for k in range(out_rank) if k not in offset]

    def picked(part: Part) -> Part:
        new, old = new_labels(index.shape), part.labels[axis]
        rest = iter(label for k, label in enumerate(part.labels) if k != axis)
        ours = iter(new)
        labels = [next(ours) if k in where else next(rest) for k in range(out_rank)]
        return part.relabelled(labels).times(rows, (*new, old))

    return [view.mapped(picked)]


def _gathered_axis(eqn: core.JaxprEqn, shape: tuple[int, ...]) -> int | None:
    """The axis along which whole rows are read, if that is all that is done."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        return None
    (axis,) = numbers.start_index_map
    whole = all(
        taken == size or k == axis
        for k, (taken, size) in enumerate(zip(sizes, shape, strict=True))
    )
    one_row = numbers.collapsed_slice_dims == (axis,) and sizes[axis] == 1
    return axis if whole and one_row else None


@structured(lax.concatenate_p, unapplied=True)
def _concatenate_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    axis = int(eqn.params["dimension"])
    total = shape_of(eqn.outvars[0])[axis]
    parts, start = [], 0
    for arg in args:
        size = jnp.shape(value_of(arg))[axis]
        rows = np.eye(total)[:, start : start + size]
        start += size
        if isinstance(arg, View):
            parts += [part.along(axis, rows) for part in arg.parts]
    return [Dependence(tuple(parts))]


def _along_axes(
    eqn: core.JaxprEqn,
    args: Sequence[Argument],
    matrix_of: Callable[[dict[str, Any], int, int], np.ndarray | None],
) -> Dependences:
    """Each axis is mapped by a matrix of its own, or by none if it stays."""
    if (view := only_first(args)) is None:
        return None
    matrices = [
        matrix_of(eqn.params, axis, size) for axis, size in enumerate(view.shape)
    ]

    def mapped(part: Part) -> Part:
        for axis, matrix in enumerate(matrices):
            if matrix is not None:
                part = part.along(axis, matrix)
        return part

    return [view.mapped(mapped)]


@structured(lax.rev_p, unapplied=True)
def _reverse_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    return _along_axes(eqn, args, _reversed_rows)


@structured(lax.cumsum_p, unapplied=True)
def _cumsum_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    return _along_axes(eqn, args, _summed_rows)


@structured(lax.pad_p, unapplied=True)
def _pad_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    return _along_axes(eqn, args, _padded_rows)


def _reversed_rows(
    params: dict[str, Any], axis: int, size: int
) -> Float[np.ndarray, "size size"] | None:
    return np.eye(size)[::-1] if axis in params["dimensions"] else None


def _summed_rows(
    params: dict[str, Any], axis: int, size: int
) -> Float[np.ndarray, "size size"] | None:
    if axis != params["axis"]:
        return None
    return np.tri(size).T if params["reverse"] else np.tri(size)


def _padded_rows(
    params: dict[str, Any], axis: int, size: int
) -> Float[np.ndarray, "length size"] | None:
    low, high, interior = params["padding_config"][axis]
    if (low, high, interior) == (0, 0, 0):
        return None
    length = low + high + size + max(size - 1, 0) * interior
    rows: Int[np.ndarray, "length 1"] = np.arange(length)[:, None] - low
    read: Bool[np.ndarray, "length size"] = rows == (1 + interior) * np.arange(size)
    return read.astype(float)
