"""Structure rules of primitives by which axes move, come or go."""

from collections.abc import Sequence

from jax import lax
from jax.extend import core

from eqtangents._jaxpr import shape_of
from eqtangents.empirical._primitives import only_first, structured
from eqtangents.empirical._views import (
    Argument,
    Dependences,
    Label,
    Part,
    Root,
    new_labels,
)


@structured(lax.transpose_p)
def _transpose_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    if (view := only_first(args)) is None:
        return None
    order = eqn.params["permutation"]
    return [view.mapped(lambda part: part.relabelled([part.labels[i] for i in order]))]


@structured(lax.reshape_p, lax.squeeze_p)
def _reshape_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    if (view := only_first(args)) is None:
        return None
    shape = shape_of(eqn.outvars[0])
    old = [axis for axis, size in enumerate(view.shape) if size != 1]
    new = [axis for axis, size in enumerate(shape) if size != 1]
    if [view.shape[axis] for axis in old] == [shape[axis] for axis in new]:
        source = dict(zip(new, old, strict=True))

        def relabelled(part: Part) -> Part:
            axes = range(len(shape))
            label = lambda axis: (
                part.labels[source[axis]] if axis in source else Label(1)
            )
            return part.relabelled(tuple(map(label, axes)))

        return [view.mapped(relabelled)]
    if not view.dependence.sole or not all(part.is_whole for part in view.parts):
        return None

    def redefined(part: Part) -> Part:
        # A kernel does not change under an orthogonal change of its parameters.
        labels = new_labels(shape)
        root = Root(part.root.leaf, labels)
        return Part(root, labels, part.factors, entry=part.entry)

    return [view.mapped(redefined)]


@structured(lax.broadcast_in_dim_p, unapplied=True)
def _broadcast_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    if (view := only_first(args)) is None:
        return None
    shape = shape_of(eqn.outvars[0])
    source = {out: axis for axis, out in enumerate(eqn.params["broadcast_dimensions"])}

    def label(part: Part, axis: int) -> Label:
        inner = source.get(axis)
        if inner is not None and view.shape[inner] == shape[axis]:
            return part.labels[inner]
        return Label(shape[axis])

    return [
        view.mapped(
            lambda part: part.relabelled(
                [label(part, axis) for axis in range(len(shape))]
            )
        )
    ]


@structured(lax.reduce_sum_p)
def _reduce_sum_rule(eqn: core.JaxprEqn, args: Sequence[Argument]) -> Dependences:
    if (view := only_first(args)) is None:
        return None
    axes = eqn.params["axes"]
    kept = [axis for axis in range(len(view.shape)) if axis not in axes]
    return [view.mapped(lambda part: part.relabelled([part.labels[i] for i in kept]))]
