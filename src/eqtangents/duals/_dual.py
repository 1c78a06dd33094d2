"""What a dual activation is: two Gaussian expectations of one nonlinearity."""

import abc
import numbers
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeGuard

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer, PyTree

from eqtangents._arguments import described
from eqtangents._types import is_real
from eqtangents.duals._pair import OF_ONE, Moments, Pair


class Stacked(NamedTuple):
    """Many numbers for each example and position, in one array `(terms, n, *size)`.

    A kernel moves all that `prepare` returns to the place of each pair, array by array.
    One array is moved by one operation; `terms` takes it apart afterwards. Terms come
    first, as loops keep arrays in the order of their axes: the examples of a term are
    beside each other, as the vectors of a processor want them.
    """

    array: Float[Array, "terms ..."]

    def terms(self) -> list[Float[Array, "..."]]:
        """The arrays along the first axis.

        They are split off, since the gradient of a split joins its parts, where the
        gradient of indexing adds up arrays of the full size.
        """
        parts = lax.split(self.array, (1,) * self.array.shape[0])
        return [lax.squeeze(part, (0,)) for part in parts]


Prepared: TypeAlias = PyTree[Float[Array, "..."]]
Reals: TypeAlias = (
    float
    | int
    | Float[Array, "..."]
    | Integer[Array, "..."]
    | Float[np.ndarray, "..."]
    | Integer[np.ndarray, "..."]
)


class AbstractDual(eqx.Module):
    r"""Gaussian expectations of a nonlinearity $f$: its dual activation.

    `dual(cov, var1, var2)` gives $\mathbb{E} f(u) f(v)$ and $\mathbb{E} f'(u) f'(v)$ of
    centred Gaussians $(u, v)$ with this covariance and these variances. The second is
    the derivative of the first in `cov`, except that jumps of $f$ do not count.

    Kernels need the two for many pairs of few examples. So a dual is evaluated in two
    stages: `prepare` computes, once for each example and position, whatever depends on
    one variance alone, and `moments` does the rest for each pair. `diagonal` is the
    first expectation for an example with itself. A subclass writes these three methods,
    and `eqtangents.testing.check_dual` tries them.

    `homogeneous` says that $f(a u) = a f(u)$ for all $a > 0$. Such an $f$ may follow a
    normalisation with trained gains, since $\mathbb{E}\, u f'(u)\, v f'(v) =
    \mathbb{E} f(u) f(v)$.
    """

    homogeneous: ClassVar[bool] = False

    @abc.abstractmethod
    def prepare(self, variance: Float[Array, "n *size"]) -> Prepared:
        """Compute what `moments` needs of the variance of one input.

        **Arguments:**

        - `variance`: the variances of `n` examples, at positions of any number of axes.

        **Returns:** a tree of arrays of the shape of `variance`. Many such arrays may
        be one `Stacked` array `(terms, n, *size)`, in whose place `moments` is given a
        list.
        """

    @abc.abstractmethod
    def moments(self, pair: Pair, left: Any, right: Any) -> Moments:
        """Compute `E f(u) f(v)` and `E f'(u) f'(v)` of pairs.

        **Arguments:**

        - `pair`: the covariances, and what is known of them besides.
        - `left`, `right`: what `prepare` returned for `u` and for `v`. The arrays in
            them broadcast against the covariances.

        **Returns:** both expectations, in the shape of the covariances.
        """

    @abc.abstractmethod
    def diagonal(self, variance: Float[Array, "n *size"]) -> Float[Array, "n *size"]:
        """Compute `E f(u)**2`: `at_equal_inputs(self, variance).value`, or better."""

    def __call__(
        self, cov: Reals, var1: Reals, var2: Reals
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        r"""$\mathbb{E} f(u) f(v)$ and $\mathbb{E} f'(u) f'(v)$.

        **Arguments:**

        - `cov`: the covariance of $u$ and $v$: a number, or an array of them.
        - `var1`, `var2`: their variances. The three are broadcast against each other.

        **Returns:** the two expectations, in the shape of the three.

        **Raises:** `TypeError` if one of the three is no number or array of real
        numbers, and `ValueError` if their shapes do not broadcast.
        """
        cov, var1, var2 = _common_arrays({"cov": cov, "var1": var1, "var2": var2})
        left, right = (in_terms(self.prepare(v.ravel())) for v in (var1, var2))
        value, derivative, *_ = self.moments(Pair(cov.ravel()), left, right)
        return value.reshape(cov.shape), derivative.reshape(cov.shape)


def _common_arrays(arguments: dict[str, Any]) -> list[Float[Array, "..."]]:
    """Arrays of one shape and of one floating-point type."""
    for name, value in arguments.items():
        if not is_real(value):
            raise TypeError(
                f"`{name}` is {described(value)}, but must be a number, or an array of "
                "real numbers: `dual(0.3, 1.0, 2.0)`, say, or "
                "`dual(jnp.asarray([0.3, 0.5]), 1.0, 2.0)`."
            )
    shapes = {name: np.shape(value) for name, value in arguments.items()}
    try:
        shape = np.broadcast_shapes(*shapes.values())
    except ValueError:
        came = ", ".join(f"`{name}` of {size}" for name, size in shapes.items())
        raise ValueError(
            f"Shapes do not broadcast: {came}. For all pairs of two batches write "
            "`dual(cov, var1[:, None], var2[None, :])`."
        ) from None
    reals = [_as_real(value) for value in arguments.values()]
    dtype = jnp.result_type(*reals)
    return [jnp.broadcast_to(jnp.asarray(real, dtype), shape) for real in reals]


def _as_real(value: Any) -> float | Float[Array, "..."]:
    """A number of Python, which takes on any type, or an array of floats."""
    if isinstance(value, numbers.Real):
        return float(value)
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


class AbstractDualOfSums(AbstractDual):
    """A dual that can spare compilers from summing again.

    Compilers repeat a sum, and all other cheap operations, wherever their result is
    read, but no division and no root.
    """

    @property
    @abc.abstractmethod
    def nonnegative(self) -> bool:
        """Whether the function is known to be nowhere less than zero."""

    @abc.abstractmethod
    def prepare_for_sum(self, variance: Float[Array, "n *size"]) -> Any:
        """What `moments_of_sum` needs of the variance of one input, as `prepare`."""

    @abc.abstractmethod
    def moments_of_sum(
        self, pair: Pair, left: Any, right: Any, *, nonnegative: bool
    ) -> tuple[Moments, Float[Array, "..."]]:
        """`moments` of a covariance that is a long sum, and the covariance once more.

        Both are computed from one number for each pair, which a division or a root
        gives. It is not differentiated. `nonnegative`: whether no covariance is less
        than zero.
        """


def is_stack(leaf: Any) -> TypeGuard[Stacked]:
    """Whether it is a stack, where trees are taken apart to stacks and arrays."""
    return isinstance(leaf, Stacked)


def in_terms(prepared: PyTree) -> Any:
    """A tree with lists of arrays in the place of stacks."""
    return jax.tree.map(
        lambda leaf: leaf.terms() if is_stack(leaf) else leaf,
        prepared,
        is_leaf=is_stack,
    )


def along_examples(
    function: Callable[[Array, int], Array], prepared: PyTree
) -> PyTree[Array]:
    """`function(array, axis)` of all arrays of a tree, with their axis of examples."""
    return jax.tree.map(
        lambda leaf: (
            Stacked(function(leaf.array, 1)) if is_stack(leaf) else function(leaf, 0)
        ),
        prepared,
        is_leaf=is_stack,
    )


def at_equal_inputs(dual: AbstractDual, variance: Float[Array, "n *size"]) -> Moments:
    r"""The expectations $\mathbb{E} f(u)^2$ and $\mathbb{E} f'(u)^2$, by `moments`.

    **Arguments:**

    - `dual`: a dual activation.
    - `variance`: the variances of $u$.

    **Returns:** both expectations. `at_equal_inputs(self, variance).value` is what the
    method `diagonal` of a dual may return, if there is no shorter formula.
    """
    prepared = in_terms(dual.prepare(variance))
    one = Pair(variance, tolerance=jnp.asarray(OF_ONE, variance.dtype))
    return dual.moments(one, prepared, prepared)
