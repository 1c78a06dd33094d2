"""Arrays that must stay, stored where nothing that acts on a network finds them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact, PyTree, UInt


class Bits(eqx.Module):
    """An array stored as integers.

    Optimisers, weight decay, averaging and casts act on every floating-point leaf.
    `jax.lax.stop_gradient` does not protect the point of expansion from them; storing
    it as integers does.
    """

    parts: tuple[UInt[Array, "..."], ...]
    dtype: Any = eqx.field(static=True)

    def __init__(self, value: Inexact[Array, "..."]):
        """Store a floating-point or complex array."""
        value = jnp.asarray(value)
        self.dtype = value.dtype
        pair = (value.real, value.imag) if jnp.iscomplexobj(value) else (value,)
        self.parts = tuple(
            lax.bitcast_convert_type(part, f"uint{8 * part.dtype.itemsize}")
            for part in pair
        )

    @property
    def value(self) -> Inexact[Array, "..."]:
        """The array."""
        if not jnp.issubdtype(self.dtype, jnp.complexfloating):
            return lax.bitcast_convert_type(self.parts[0], self.dtype)
        real = jnp.finfo(self.dtype).dtype
        return lax.complex(*(lax.bitcast_convert_type(p, real) for p in self.parts))


def _is_bits(node: Any) -> bool:
    return isinstance(node, Bits)


def hidden(tree: PyTree) -> PyTree:
    """A tree with its floating-point and complex arrays stored as integers."""
    return jax.tree.map(lambda x: Bits(x) if eqx.is_inexact_array(x) else x, tree)


def revealed(tree: PyTree) -> PyTree:
    """A tree with the arrays that `hidden` stored, as they were."""
    return jax.tree.map(lambda x: x.value if _is_bits(x) else x, tree, is_leaf=_is_bits)
