"""What a dual activation is: two Gaussian expectations of one nonlinearity."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from eqtangents.duals._pair import Moments, Pair


class Stacked(NamedTuple):
    """Many numbers for each example and position, in one array.

    One array is moved to its place by one operation; `terms` takes it apart.
    """

    array: Float[Array, "..."]

    def terms(self, axis: int) -> list[Float[Array, "..."]]:
        """The arrays along an axis. Gradients of `split` are joined, not added up."""
        parts = lax.split(self.array, (1,) * self.array.shape[axis], axis)
        return [lax.squeeze(part, (axis,)) for part in parts]


Prepared = PyTree[Float[Array, "..."]]


class AbstractDual(eqx.Module):
    r"""Gaussian expectations of a nonlinearity $f$: its dual activation.

    `dual(cov, var1, var2)` gives $\mathbb{E} f(u) f(v)$ and $\mathbb{E} f'(u) f'(v)$ of
    centred Gaussians $(u, v)$ with these covariances.

    Kernels need the two for many pairs of few examples. So a dual is evaluated in two
    stages: `prepare` computes, once for each example and position, what is needed of a
    variance, and `moments` does the rest for each pair. `diagonal` is for pairs of an
    example with itself.
    """

    @abc.abstractmethod
    def prepare(self, variance: Float[Array, "n *size"]) -> Prepared:
        """What `moments` needs to know of the variance at either end of a pair.

        A tree of arrays of the shape of the variances, or of many such in one
        `Stacked` array `(n, terms, *size)`, which `moments` is given as a list.
        """

    @abc.abstractmethod
    def moments(self, pair: Pair, left: Any, right: Any) -> Moments:
        """`E f(u) f(v)` and `E f'(u) f'(v)` of a pair, its two ends prepared."""

    @abc.abstractmethod
    def diagonal(self, variance: Float[Array, "n *size"]) -> Float[Array, "n *size"]:
        """`E f(u)**2`."""

    def __call__(
        self,
        cov: Float[Array, "*#shape"],
        var1: Float[Array, "*#shape"],
        var2: Float[Array, "*#shape"],
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        r"""$\mathbb{E} f(u) f(v)$ and $\mathbb{E} f'(u) f'(v)$.

        **Arguments:**

        - `cov`: the covariance of $u$ and $v$, or many.
        - `var1`, `var2`: their variances. The three are broadcast against each other.

        **Returns:** the two expectations, in the shape of the three.
        """
        cov, var1, var2 = jnp.broadcast_arrays(cov, var1, var2)
        left, right = (in_terms(self.prepare(v.ravel()), 1) for v in (var1, var2))
        value, derivative, *_ = self.moments(Pair(cov.ravel()), left, right)
        return value.reshape(cov.shape), derivative.reshape(cov.shape)


def in_terms(prepared: PyTree, axis: int) -> Any:
    """What was prepared, with lists in the place of stacks along an axis."""
    stacked = lambda leaf: isinstance(leaf, Stacked)
    return jax.tree.map(
        lambda leaf: leaf.terms(axis) if stacked(leaf) else leaf,
        prepared,
        is_leaf=stacked,
    )


def at_equal_inputs(dual: AbstractDual, variance: Float[Array, "n *size"]) -> Moments:
    """The expectations of `f(u)**2` and `f'(u)**2`, by those of pairs."""
    prepared = in_terms(dual.prepare(variance), 1)
    one = Pair(variance, tolerance=jnp.asarray(jnp.inf, variance.dtype))
    return dual.moments(one, prepared, prepared)
