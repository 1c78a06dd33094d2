"""Learning rates, which stand in the places of parameters while kernels are computed.

A parameter adds to the tangent kernel in proportion to its learning rate. Layers ask
for it by `rate_of`, whether a parameter, nothing or a rate stands in its place.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar


# The rates of parameters that differ among copies of a layer: of all of them, along a
# leading axis, or of one.
Differing: TypeAlias = Sequence[Float[Array, "..."]]

OneOrMore = TypeVar("OneOrMore")


class Rate(eqx.Module):
    """The learning rate of a parameter of some shape.

    Of the copies of a layer it is one number, or one for each along leading axes that
    the parameter has as well, `stacked` of them.
    """

    value: float | Float[Array, "..."]
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def stacked(self) -> int:
        """The number of axes of copies with rates of their own."""
        return jnp.ndim(self.value)

    def of_copy(self, value: Float[Array, "..."] | None) -> "Rate":
        """The rate of one copy, where it is another for each."""
        return Rate(self.value if value is None else value, self.shape[1:])


def rate_of(parameter: Any) -> Scalar:
    """The learning rate of a parameter of a layer, to which its part of $T$ is due.

    **Arguments:**

    - `parameter`: what stands in the place of it: an array, or `None` before `init`,
        both of which mean 1; or a rate, if `eqtangents.ntk` was given `trainable`.
    """
    return parameter.value if isinstance(parameter, Rate) else 1.0


def is_rate(node: Any) -> bool:
    """Whether this is the learning rate of a parameter."""
    return isinstance(node, Rate)


def rates_in(tree: Any) -> list[Rate]:
    """All learning rates in a tree."""
    return list(filter(is_rate, jax.tree.leaves(tree, is_leaf=is_rate)))


def of_copies(
    layer: OneOrMore, copies: Any
) -> tuple[Differing, Callable[[Differing], OneOrMore]]:
    """The rates of copies that differ, and how a copy is made of its own.

    **Arguments:**

    - `layer`: a layer, or tree of layers, that all copies are like.
    - `copies`: the same with rates, whose shapes have a leading axis of copies.
    """
    if not rates_in(copies):
        return (), lambda _: layer
    known = dict(jax.tree_util.tree_leaves_with_path(layer))
    is_leaf = lambda node: node is None or is_rate(node)

    def copy(own: Differing) -> OneOrMore:
        values = iter(own)

        def one(path: Any, leaf: Any) -> Any:
            if not is_rate(leaf):
                return known.get(path)
            return leaf.of_copy(next(values) if leaf.stacked else None)

        return jax.tree_util.tree_map_with_path(one, copies, is_leaf=is_leaf)

    stacked = [rate.value for rate in rates_in(copies) if rate.stacked]
    return cast(Differing, stacked), copy


def as_copies(layers: Sequence[OneOrMore]) -> OneOrMore | None:
    """What differs in its rates alone, as copies; `None` if there are none."""
    if not rates_in(layers[0]):
        return None
    return jax.tree.map(_together, *layers, is_leaf=is_rate)


def _together(*leaves: Any) -> Any:
    """Rates along a new leading axis, unless they are one number."""
    first = leaves[0]
    if not is_rate(first):
        return first
    values = [rate.value for rate in leaves]
    shape = (len(leaves), *first.shape)
    known = not any(map(eqx.is_array, values))
    if known and len(set(values)) == 1:
        return Rate(first.value, shape)
    alike = first.shape[: max(rate.stacked for rate in leaves)]
    spread = [_along_first(jnp.asarray(value), alike) for value in values]
    return Rate(jnp.stack(spread), shape)


def _along_first(
    value: Float[Array, "..."], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Values along the first axes of a shape, the same along all others."""
    others = (1,) * (len(shape) - value.ndim)
    return jnp.broadcast_to(value.reshape(*value.shape, *others), shape)
