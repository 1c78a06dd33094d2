"""Structure rules of sums, of scales, and of products with data."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core
from jax.extend.core import primitives
from jaxtyping import Array, Float

from eqtangents._jaxpr import shape_of
from eqtangents.empirical._primitives import only_first, structured
from eqtangents.empirical._views import (
    Argument,
    Dependence,
    Dependences,
    Label,
    Part,
    Value,
    View,
    new_labels,
    value_of,
)


# Sums, and products with a number: of any value.


@structured(lax.neg_p)
def _negative_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    if (view := only_first(args)) is None:
        return None
    return [view.mapped(lambda part: part.times(np.asarray(-1.0)))]


@structured(lax.copy_p)
def _copy_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    view = only_first(args)
    return None if view is None else [view.dependence]


@structured(lax.convert_element_type_p)
def _convert_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    if not jnp.issubdtype(eqn.params["new_dtype"], jnp.floating):
        return None
    view = only_first(args)
    return None if view is None else [view.dependence]


@structured(lax.add_p, primitives.add_jaxvals_p)
def _add_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    return _sum_of_two(eqn, args, lambda part: part)


@structured(lax.sub_p)
def _subtract_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    return _sum_of_two(eqn, args, lambda part: part.times(np.asarray(-1.0)))


def _sum_of_two(
    eqn: core.JaxprEqn, args: Sequence[Argument], second_of: Callable[[Part], Part]
) -> Dependences:
    """A sum or difference; `second_of` gives the second term its sign."""
    first, second = args
    views = [arg for arg in args if isinstance(arg, View)]
    if any(view.shape != shape_of(eqn.outvars[0]) for view in views):
        return None
    parts = first.parts if isinstance(first, View) else ()
    if isinstance(second, View):
        parts = (*parts, *map(second_of, second.parts))
    applied = len(views) == 1 or any(view.applied for view in views)
    return [Dependence(parts, applied)]


@structured(lax.mul_p)
def _times_number_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    """A view times a number, whichever comes first."""
    view, number = args if isinstance(args[0], View) else args[::-1]
    if not isinstance(view, View) or isinstance(number, View) or jnp.ndim(number):
        return None
    return [view.mapped(lambda part: part.times(number))]


@structured(lax.div_p)
def _over_number_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    """A view over a number."""
    view = only_first(args)
    number: Any = value_of(args[1])
    if view is None or jnp.ndim(number):
        return None
    return [view.mapped(lambda part: part.times(1 / number))]


# Products with data: of parameters that have met none.


def _product_rule(
    args: Sequence[Argument],
    parts_of: Callable[[View, Value, int], Sequence[Part]],
) -> list[Dependence]:
    """Each argument in turn is linear, and the other one a factor."""
    parts = []
    for i, (view, other) in enumerate((args, args[::-1])):
        if isinstance(view, View):
            parts += parts_of(view, value_of(other), i)
    return [Dependence(tuple(parts), applied=True)]


@structured(lax.mul_p, unapplied=True)
def _multiply_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    shape = shape_of(eqn.outvars[0])
    if any(isinstance(arg, View) and arg.shape != shape for arg in args):
        return None
    return _product_rule(
        args,
        lambda view, other, _: [part.times(other, part.labels) for part in view.parts],
    )


@structured(lax.div_p, unapplied=True)
def _divide_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    view = only_first(args)
    other: Any = value_of(args[1])
    if view is None or view.shape != jnp.shape(other):
        return None
    divided = lambda part: part.times(1 / other, part.labels)
    return [view.mapped(divided, applied=True)]


@structured(lax.select_n_p, unapplied=True)
def _select_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    which, *cases = args
    if isinstance(which, View):
        return None
    number = jnp.asarray(which, jnp.int32)
    parts = []
    for i, case in enumerate(cases):
        if isinstance(case, View):
            chosen = jnp.broadcast_to((number == i).astype(case.dtype), case.shape)
            parts += [part.times(chosen, part.labels) for part in case.parts]
    return [Dependence(tuple(parts), applied=True)]


@structured(lax.dot_general_p, unapplied=True)
def _dot_general_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    contracting, batch = eqn.params["dimension_numbers"]

    def parts(view: View, other: Value, side: int) -> list[Part]:
        axes = (*contracting[side], *batch[side])
        shared = dict(
            zip((*contracting[1 - side], *batch[1 - side]), axes, strict=True)
        )

        def part_of(part: Part) -> Part:
            labels = tuple(
                part.labels[shared[axis]] if axis in shared else Label(size)
                for axis, size in enumerate(jnp.shape(other))
            )
            own = [l for axis, l in enumerate(part.labels) if axis not in axes]
            new = [l for axis, l in enumerate(labels) if axis not in shared]
            free = (*own, *new) if side == 0 else (*new, *own)
            batched = [part.labels[axis] for axis in batch[side]]
            return part.relabelled((*batched, *free)).times(other, labels)

        return list(map(part_of, view.parts))

    return _product_rule(args, parts)


@structured(lax.conv_general_dilated_p, unapplied=True)
def _conv_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    """A convolution of data with filters, as a product with patches of the data."""
    data, filters = args
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    if isinstance(data, View) or params["batch_group_count"] != 1:
        return None
    assert isinstance(filters, View)
    out_axis, in_axis, *window_axes = numbers.rhs_spec
    out_shape = shape_of(eqn.outvars[0])
    size_out = [out_shape[axis] for axis in numbers.out_spec[2:]]
    window = [filters.shape[axis] for axis in window_axes]
    data = jnp.transpose(jnp.asarray(data), numbers.lhs_spec)
    patches = _patches(data, window, size_out, params)
    groups = params["feature_group_count"]
    batch, channels = patches.shape[len(window) : len(window) + 2]
    # (*window, batch, channels, *out) -> (*window, batch, group, in_group, *out)
    patches = patches.reshape(*window, batch, groups, channels // groups, *size_out)
    of_group = np.repeat(np.eye(groups), filters.shape[out_axis] // groups, axis=1)

    def part_of(part: Part) -> Part:
        own = part.labels
        new_batch, *positions = new_labels((batch, *size_out))
        group = Label(groups)
        in_window = [own[axis] for axis in window_axes]
        here = (new_batch, own[out_axis], *positions)
        labels = dict(zip(numbers.out_spec, here, strict=True))
        patch_labels = (*in_window, new_batch, group, own[in_axis], *positions)
        part = part.relabelled([labels[axis] for axis in range(len(out_shape))])
        part = part.times(patches, patch_labels)
        return part if groups == 1 else part.times(of_group, (group, own[out_axis]))

    return [filters.mapped(part_of, applied=True)]


def _patches(
    data: Float[Array, "batch channels *size"],
    window: list[int],
    size_out: list[int],
    params: dict[str, Any],
) -> Float[Array, "..."]:
    """The data that each entry of a window reads.

    The axes are `(*window, batch, channels, *size_out)`.
    """
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
