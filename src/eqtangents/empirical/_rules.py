"""What linear primitives do to the structure of a view.

A rule returns the results of an equation, views where it can and values else, or `None`
to have its arguments treated as any others. Only what makes a value smaller, or leads
to such a thing, needs one: everything else differentiates as JAX does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from eqtangents._jaxpr import bind, shape_of
from eqtangents.empirical._views import Label, Labelling, Part, View


Results = list[Any] | None


def _value(arg: Any) -> Any:
    return arg.value if isinstance(arg, View) else arg


def _values(eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    return bind(eqn, *map(_value, args))


# Axes that move, come or go.


def _transpose(eqn, args, labelling) -> Results:
    (view,) = args
    order = eqn.params["permutation"]
    moved = lambda part: part.relabelled(tuple(part.labels[i] for i in order))
    return [view.mapped(_values(eqn, args)[0], moved)]


def _reshape(eqn, args, labelling: Labelling) -> Results:
    view, *_ = args
    shape = shape_of(eqn.outvars[0])
    old = [axis for axis, size in enumerate(view.shape) if size != 1]
    new = [axis for axis, size in enumerate(shape) if size != 1]
    if [view.shape[axis] for axis in old] == [shape[axis] for axis in new]:
        source = dict(zip(new, old, strict=True))

        def relabelled(part: Part) -> Part:
            return part.relabelled(
                tuple(
                    part.labels[source[axis]] if axis in source else labelling.label(1)
                    for axis in range(len(shape))
                )
            )

        return [view.mapped(_values(eqn, args)[0], relabelled)]
    if not view.sole or not all(map(labelling.is_whole, view.parts)):
        return None

    def redefined(part: Part) -> Part:
        # A kernel does not change under an orthogonal change of its parameters.
        labels = labelling.labels(shape)
        root = labelling.root(labelling.leaf_of[part.root], labels)
        return Part(root, labels, part.factors, entry=part.entry)

    return [view.mapped(_values(eqn, args)[0], redefined)]


def _broadcast(eqn, args, labelling: Labelling) -> Results:
    view, *_ = args
    shape = shape_of(eqn.outvars[0])
    source = {out: axis for axis, out in enumerate(eqn.params["broadcast_dimensions"])}

    def label(part: Part, axis: int) -> Label:
        inner = source.get(axis)
        if inner is not None and view.shape[inner] == shape[axis]:
            return part.labels[inner]
        return labelling.label(shape[axis])

    spread = lambda part: part.relabelled(
        tuple(label(part, axis) for axis in range(len(shape)))
    )
    return [view.mapped(_values(eqn, args)[0], spread)]


def _reduce_sum(eqn, args, labelling) -> Results:
    (view,) = args
    axes = eqn.params["axes"]
    kept = [axis for axis in range(len(view.shape)) if axis not in axes]
    summed = lambda part: part.relabelled(tuple(part.labels[i] for i in kept))
    return [view.mapped(_values(eqn, args)[0], summed)]


# Axes that are mapped by a matrix, rows by rows.


def _mapped_axis(part: Part, axis: int, matrix: Any, labelling: Labelling) -> Part:
    """`matrix @` along one axis."""
    new, old = labelling.label(matrix.shape[0]), part.labels[axis]
    labels = (*part.labels[:axis], new, *part.labels[axis + 1 :])
    return part.relabelled(labels).times(matrix, (new, old))


def _window(
    part: Part, axis: int, start: int, stop: int, stride: int, labelling: Labelling
) -> Part:
    """Some rows of an axis."""
    old = part.labels[axis]
    size = labelling.sizes[old]
    if (start, stop, stride) == (0, size, 1):
        return part
    if old in labelling.roots[part.root]:
        part = Part(
            part.root,
            part.labels,
            part.factors,
            (*part.windows, (old, start, stop)),
            part.entry,
        )
    return _mapped_axis(part, axis, np.eye(size)[start:stop:stride], labelling)


def _slice(eqn, args, labelling) -> Results:
    (view,) = args
    params = eqn.params
    strides = params["strides"] or (1,) * len(view.shape)
    ranges = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    ranges = list(enumerate(ranges))

    def sliced(part: Part) -> Part:
        for axis, (start, stop, stride) in ranges:
            part = _window(part, axis, start, stop, stride, labelling)
        return part

    return [view.mapped(_values(eqn, args)[0], sliced)]


def _split(eqn, args, labelling) -> Results:
    (view,) = args
    axis, stops = eqn.params["axis"], np.cumsum(eqn.params["sizes"])
    return [
        view.mapped(
            value,
            lambda part, start=stop - size, stop=stop: _window(
                part, axis, int(start), int(stop), 1, labelling
            ),
        )
        for value, size, stop in zip(
            _values(eqn, args), eqn.params["sizes"], stops, strict=True
        )
    ]


def _rows(start: Any, count: int, size: int, dtype: Any) -> Any:
    """A matrix that picks `count` of `size` rows from `start` on."""
    picked = start + jnp.arange(count, dtype=jnp.result_type(start))
    return (picked[:, None] == jnp.arange(size, dtype=picked.dtype)[None]).astype(dtype)


def _dynamic_slice(eqn, args, labelling) -> Results:
    view, *starts = args
    if any(isinstance(start, View) for start in starts):
        return None
    sizes, dtype = eqn.params["slice_sizes"], jnp.result_type(view.value)

    def sliced(part: Part) -> Part:
        for axis, (start, count, size) in enumerate(
            zip(starts, sizes, view.shape, strict=True)
        ):
            if count != size:
                start = jnp.clip(jnp.asarray(start), 0, size - count)
                rows = _rows(start, count, size, dtype)
                part = _mapped_axis(part, axis, rows, labelling)
        return part

    return [view.mapped(_values(eqn, args)[0], sliced)]


def _gather(eqn, args, labelling: Labelling) -> Results:
    """Rows of a table, as in an embedding."""
    view, indices = args
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if isinstance(indices, View) or len(numbers.start_index_map) != 1:
        return None
    (axis,) = numbers.start_index_map
    whole = all(
        s == n or k == axis
        for k, (s, n) in enumerate(zip(sizes, view.shape, strict=True))
    )
    if numbers.collapsed_slice_dims != (axis,) or not whole:
        return None
    if numbers.operand_batching_dims or sizes[axis] != 1:
        return None
    size, index = view.shape[axis], indices[..., 0]
    if eqn.params["mode"] == lax.GatherScatterMode.CLIP:
        index = jnp.clip(index, 0, size - 1)
    rows = jax.nn.one_hot(index, size, dtype=jnp.result_type(view.value))
    out_rank = len(shape_of(eqn.outvars[0]))
    where = [k for k in range(out_rank) if k not in numbers.offset_dims]

    def picked(part: Part) -> Part:
        new, old = labelling.labels(index.shape), part.labels[axis]
        rest = iter(label for k, label in enumerate(part.labels) if k != axis)
        ours = iter(new)
        labels = tuple(
            next(ours) if k in where else next(rest) for k in range(out_rank)
        )
        return part.relabelled(labels).times(rows, (*new, old))

    return [view.mapped(_values(eqn, args)[0], picked)]


def _concatenate(eqn, args, labelling) -> Results:
    axis = int(eqn.params["dimension"])
    total = shape_of(eqn.outvars[0])[axis]
    parts, start = [], 0
    for arg in args:
        size = jnp.shape(_value(arg))[axis]
        rows = np.eye(total)[:, start : start + size]
        start += size
        if isinstance(arg, View):
            parts += [_mapped_axis(part, axis, rows, labelling) for part in arg.parts]
    return [View(_values(eqn, args)[0], tuple(parts))]


def _along_axes(matrix_of: Callable[[Any, int, int], Any]) -> Callable:
    """A primitive that maps each axis by a matrix of its own (`None`: not at all)."""

    def rule(eqn, args, labelling) -> Results:
        view, *others = args
        if any(isinstance(other, View) for other in others):
            return None

        def mapped(part: Part) -> Part:
            for axis, size in enumerate(view.shape):
                matrix = matrix_of(eqn.params, axis, size)
                if matrix is not None:
                    part = _mapped_axis(part, axis, matrix, labelling)
            return part

        return [view.mapped(_values(eqn, args)[0], mapped)]

    return rule


def _reversed_rows(params: Any, axis: int, size: int) -> Any:
    return np.eye(size)[::-1] if axis in params["dimensions"] else None


def _summed_rows(params: Any, axis: int, size: int) -> Any:
    if axis != params["axis"]:
        return None
    return np.tri(size).T if params["reverse"] else np.tri(size)


def _padded_rows(params: Any, axis: int, size: int) -> Any:
    low, high, interior = params["padding_config"][axis]
    if (low, high, interior) == (0, 0, 0):
        return None
    length = low + high + size + max(size - 1, 0) * interior
    rows = np.arange(length)[:, None] - low
    return (rows == (1 + interior) * np.arange(size)[None]).astype(float)


# Sums.


def _scaled(factor: float) -> Callable:
    """A primitive that is a number times its argument."""

    def rule(eqn, args, labelling) -> Results:
        (view,) = args
        scaled = lambda part: part if factor == 1 else part.times(np.asarray(factor))
        return [view.mapped(_values(eqn, args)[0], scaled)]

    return rule


def _convert(eqn, args, labelling) -> Results:
    if not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return None
    return _scaled(1.0)(eqn, args, labelling)


def _sum(sign: float) -> Callable:
    """A sum or difference."""

    def rule(eqn, args, labelling) -> Results:
        a, b = args
        views = [arg for arg in args if isinstance(arg, View)]
        if any(view.shape != shape_of(eqn.outvars[0]) for view in views):
            return None
        parts = list(a.parts) if isinstance(a, View) else []
        if isinstance(b, View):
            scale = np.asarray(sign)
            parts += [p if sign == 1 else p.times(scale) for p in b.parts]
        applied = len(views) == 1 or any(view.applied for view in views)
        return [View(_values(eqn, args)[0], tuple(parts), applied)]

    return rule


# Products.


def _products(eqn, args, factor_of: Callable[[View, Any, int], list[Part]]) -> Results:
    """The product rule: each view in turn is linear, and the other a factor."""
    parts = []
    for i, (view, other) in enumerate((args, args[::-1])):
        if isinstance(view, View):
            parts += factor_of(view, _value(other), i)
    return [View(_values(eqn, args)[0], tuple(parts), applied=True)]


def _mul(eqn, args, labelling) -> Results:
    if any(isinstance(v, View) and v.shape != shape_of(eqn.outvars[0]) for v in args):
        return None
    return _products(
        eqn, args, lambda view, other, _: [p.times(other, p.labels) for p in view.parts]
    )


def _scalar_product(eqn, args, labelling) -> Results:
    """A view times or over a number."""
    a, b = args
    view, scale = (a, b) if isinstance(a, View) else (b, a)
    scale = 1 / scale if eqn.primitive.name == "div" else scale
    return [view.mapped(_values(eqn, args)[0], lambda part: part.times(scale))]


def _div(eqn, args, labelling) -> Results:
    view, other = args
    if not isinstance(view, View) or isinstance(other, View):
        return None
    if view.shape != jnp.shape(other):
        return None
    times = lambda part: part.times(1 / other, part.labels)
    return [view.mapped(_values(eqn, args)[0], times, applied=True)]


def _select(eqn, args, labelling) -> Results:
    which, *cases = args
    if isinstance(which, View):
        return None
    parts = []
    for i, case in enumerate(cases):
        if isinstance(case, View):
            chosen = (which.astype(jnp.int32) == i).astype(jnp.result_type(case.value))
            chosen = jnp.broadcast_to(chosen, case.shape)
            parts += [part.times(chosen, part.labels) for part in case.parts]
    return [View(_values(eqn, args)[0], tuple(parts), applied=True)]


def _dot_general(eqn, args, labelling: Labelling) -> Results:
    contracting, batch = eqn.params["dimension_numbers"]

    def parts(view: View, other: Any, side: int) -> list[Part]:
        mine, theirs = contracting[side], contracting[1 - side]
        my_batch, their_batch = batch[side], batch[1 - side]
        return [
            part_of(part, other, mine, theirs, my_batch, their_batch, side)
            for part in view.parts
        ]

    def part_of(part, other, mine, theirs, my_batch, their_batch, side) -> Part:
        shared = dict(zip((*theirs, *their_batch), (*mine, *my_batch), strict=True))
        factor_labels = tuple(
            part.labels[shared[axis]] if axis in shared else labelling.label(size)
            for axis, size in enumerate(jnp.shape(other))
        )
        taken = {*mine, *my_batch}
        own = tuple(l for axis, l in enumerate(part.labels) if axis not in taken)
        new = tuple(l for axis, l in enumerate(factor_labels) if axis not in shared)
        free = (*own, *new) if side == 0 else (*new, *own)
        labels = (*(part.labels[axis] for axis in my_batch), *free)
        return part.relabelled(labels).times(other, factor_labels)

    return _products(eqn, args, parts)


def _conv(eqn, args, labelling: Labelling) -> Results:
    """A convolution of data with filters, as a product with patches of the data."""
    data, filters = args
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    if isinstance(data, View) or params["batch_group_count"] != 1:
        return None
    out_axis, in_axis, *window_axes = numbers.rhs_spec
    out_shape = shape_of(eqn.outvars[0])
    size_out = [out_shape[axis] for axis in numbers.out_spec[2:]]
    window = [filters.shape[axis] for axis in window_axes]
    patches = _patches(jnp.transpose(data, numbers.lhs_spec), window, size_out, params)
    groups = params["feature_group_count"]
    batch, channels = patches.shape[len(window) : len(window) + 2]
    patches = patches.reshape(*window, batch, groups, channels // groups, *size_out)

    def part_of(part: Part) -> Part:
        own = part.labels
        new_batch, *positions = labelling.labels((batch, *size_out))
        group = labelling.label(groups)
        in_window = [own[axis] for axis in window_axes]
        labels = [0] * len(out_shape)
        for axis, label in zip(
            numbers.out_spec, (new_batch, own[out_axis], *positions), strict=True
        ):
            labels[axis] = label
        patch_labels = (*in_window, new_batch, group, own[in_axis], *positions)
        part = part.relabelled(tuple(labels)).times(patches, patch_labels)
        if groups == 1:
            return part
        of_group = np.repeat(np.eye(groups), filters.shape[out_axis] // groups, axis=1)
        return part.times(of_group, (group, own[out_axis]))

    return [filters.mapped(_values(eqn, args)[0], part_of, applied=True)]


def _patches(data: Any, window: list[int], size_out: list[int], params: Any) -> Any:
    """What each entry of a window reads: `(*window, batch, channels, *size_out)`."""
    padding = zip(params["padding"], params["lhs_dilation"], strict=True)
    config = [(0, 0, 0)] * 2 + [(low, high, d - 1) for (low, high), d in padding]
    data = lax.pad(data, jnp.zeros((), data.dtype), config)
    strides, steps = params["window_strides"], params["rhs_dilation"]
    reads = []
    for offset in np.ndindex(*window):
        starts = [o * step for o, step in zip(offset, steps, strict=True)]
        stops = [
            start + (n - 1) * stride + 1 if n else start
            for start, n, stride in zip(starts, size_out, strides, strict=True)
        ]
        read = lax.slice(
            data, (0, 0, *starts), (*data.shape[:2], *stops), (1, 1, *strides)
        )
        reads.append(read)
    return jnp.stack(reads).reshape(*window, *reads[0].shape)


# Only for parameters that have not met data.
_UNAPPLIED = {
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "split": _split,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "concatenate": _concatenate,
    "rev": _along_axes(_reversed_rows),
    "cumsum": _along_axes(_summed_rows),
    "pad": _along_axes(_padded_rows),
    "select_n": _select,
    "mul": _mul,
    "div": _div,
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
}
_ANY = {
    "transpose": _transpose,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "reduce_sum": _reduce_sum,
    "neg": _scaled(-1.0),
    "copy": _scaled(1.0),
    "copy_p": _scaled(1.0),
    "convert_element_type": _convert,
    "add": _sum(1.0),
    "add_any": _sum(1.0),
    "sub": _sum(-1.0),
}


def apply(
    eqn: core.JaxprEqn,
    args: Sequence[Any],
    labelling: Labelling,
    tapped: Callable[[View], Any],
) -> Results:
    """The rule of an equation, if there is one for views like these."""
    name = eqn.primitive.name
    if name in _ANY:
        return _ANY[name](eqn, args, labelling)
    if name not in _UNAPPLIED:
        return None
    if name in ("mul", "div") and _by_number(name, *args):
        return _scalar_product(eqn, args, labelling)
    args = [
        tapped(arg) if isinstance(arg, View) and arg.applied else arg for arg in args
    ]
    if not any(isinstance(arg, View) for arg in args):
        return _values(eqn, args)
    return _UNAPPLIED[name](eqn, args, labelling)


def _by_number(name: str, a: Any, b: Any) -> bool:
    """Whether a product or quotient is that of a view and a number."""
    if isinstance(a, View):
        return not isinstance(b, View) and jnp.ndim(b) == 0
    return name == "mul" and isinstance(b, View) and jnp.ndim(a) == 0
