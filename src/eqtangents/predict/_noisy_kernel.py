"""A kernel with its noise, and functions of the two by the least work that is enough.

There are three ways, each for what is known of function and matrix:

- A solve with the Cholesky factor, where the function is the inverse to rounding: at
  the end of training, or after so long a time that all is learned.
- A polynomial, where few products with the matrix are enough: at early times.
- Eigenvectors, for all else, and where a Cholesky factor cannot tell small eigenvalues
  from rounding.
"""

import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents._products import matmul
from eqtangents.predict._arguments import branch_of, known
from eqtangents.predict._chebyshev import (
    Approximation,
    approximated,
    chebyshev_sum,
    products_allowed,
)
from eqtangents.predict._definiteness import refuse_indefinite
from eqtangents.predict._factored import cholesky_factor, solve_by
from eqtangents.predict._rounding import (
    LARGE,
    largest_sum,
    needed_eigenvalue,
    rounding_of,
)
from eqtangents.predict._smallest_eigenvalue import smallest_eigenvalue
from eqtangents.predict._spectrum import (
    Factors,
    SpectralFunction,
    Spectrum,
    forgiven,
    least_eigenvalue,
    least_noise,
    matrix_function,
)


class NoisyKernel(eqx.Module):
    r"""A positive semi-definite matrix $K + \operatorname{diag} \sigma^2$.

    It is judged as a `Spectrum` is. Eigenvectors are computed when a function needs
    them: once, if the values of the matrix are known; each time, if this is an argument
    of a compiled function.
    """

    kernel: Float[Array, "n n"]
    noise: Float[Array, " n"]
    matrix: Float[Array, "n n"]
    # Cholesky's, or eigenvectors where the matrix is not definite; without derivatives.
    factor: Float[Array, "n n"]
    values: Float[Array, " n"]  # eigenvalues as they were found, where not definite
    definite: Bool[Array, ""]  # whether all eigenvalues are above rounding
    low: Float[Array, ""]
    high: Float[Array, ""]
    rounding: Float[Array, ""]  # of eigenvalues, if some may be zero or may be not

    def __init__(self, kernel: Float[Array, "n n"], noise: Float[Array, " n"]):
        """Factorise by Cholesky, and by eigenvectors only where that is not enough.

        **Raises:** `RuntimeError`, as `Spectrum` does.

        **Cost:** $n^3 / 3$ multiply-adds; about $9 n^3$ more for what is not definite.
        """
        self.kernel, self.noise = kernel, noise
        self.matrix = kernel + jnp.diag(noise)
        fixed = lax.stop_gradient((kernel, noise, self.matrix))
        cholesky, self.definite, self.low, self.high = _by_cholesky(*fixed)
        self.values, self.factor = branch_of(
            self.definite,
            lambda: (jnp.full_like(fixed[1], 2 * self.low), cholesky),
            lambda: _eigenvectors(fixed[2]),
        )
        self.rounding = jnp.zeros((), kernel.dtype)
        if known(self.definite):
            return
        smallest = least_eigenvalue(self.values)
        self.values = refuse_indefinite(
            self.values, smallest, least_noise(noise), kernel, noise
        )
        self.rounding = forgiven(self.values, *fixed[:2])[1]

    @property
    def spectrum(self) -> Spectrum:
        """Its eigenvalues and eigenvectors."""
        return Spectrum(self.kernel, self.noise, factors=self._found())

    def approximation(self, function: SpectralFunction, columns: int) -> Approximation:
        """The function on the interval of the eigenvalues, for so many columns."""
        allowed = products_allowed(self.matrix.shape[0], columns)
        low, high = lax.stop_gradient((self.low, self.high))
        return approximated(lax.stop_gradient(function), low, high, allowed)

    def apply(
        self, function: SpectralFunction, columns: Float[Array, "n columns"]
    ) -> Float[Array, "times n columns"]:
        r"""$f(K) v$ for each column $v$, differentiable as `Spectrum.apply`.

        **Arguments:**

        - `function`: of eigenvalues, with an axis for times before theirs.
        - `columns`: what it is applied to.
        """
        approximation = self.approximation(function, columns.shape[1])
        return _applied(self.matrix, function, columns, (self, approximation))

    def by_eigenvectors(
        self,
        matrix: Float[Array, "n n"],
        function: SpectralFunction,
        columns: Float[Array, "n columns"],
    ) -> Float[Array, "times n columns"]:
        """The same, of this matrix, which is the present one with a derivative."""
        return _function_compiled(matrix, function, columns, self.factors())

    def factors(self) -> Factors:
        """Eigenvalues, without what is known to be rounding, and eigenvectors."""
        values, vectors = self._found()
        return forgiven(values, self.kernel, self.noise)[0], vectors

    @property
    def cholesky(self) -> Float[Array, "n n"]:
        """The lower factor, where the matrix is definite."""
        if known(self.definite):
            return self.factor
        # What is not used must not spoil derivatives where all branches are taken.
        eye = jnp.eye(self.factor.shape[0], dtype=self.factor.dtype)
        return jnp.where(self.definite, self.factor, eye)

    def _found(self) -> Factors:
        """Eigenvalues as they were found, and eigenvectors."""
        find = lambda: _eigenvectors(lax.stop_gradient(self.matrix))
        if known(self.definite):
            # Nothing but its identity tells an array from another; this one is the same
            # inside of derivatives, for it has none.
            return _once(self.factor, find)
        return branch_of(self.definite, find, lambda: (self.values, self.factor))


@jax.jit
def _by_cholesky(
    kernel: Float[Array, "n n"], noise: Float[Array, " n"], matrix: Float[Array, "n n"]
) -> tuple[Float[Array, "n n"], Bool[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """A Cholesky factor, whether it can be used, and bounds of the eigenvalues."""
    dtype = kernel.dtype
    if not kernel.size:
        one = jnp.ones((), dtype)
        return matrix, jnp.zeros((), bool), one, one
    floor = least_noise(noise)
    enough = jnp.where(
        floor > 0,
        needed_eigenvalue(kernel, floor, True, 0.0),
        LARGE * rounding_of(kernel),
    )
    cholesky = cholesky_factor(kernel, noise)
    smallest = smallest_eigenvalue(cholesky, enough)
    definite = smallest > enough
    # The norms of the matrix that bound its eigenvalues, and room for rounding.
    high = 1.01 * jnp.minimum(largest_sum(matrix), jnp.linalg.norm(matrix))
    low = jnp.where(definite, jnp.minimum(smallest, high) / 2, high / 2)
    return cholesky, definite, low, high


@jax.jit
def _eigenvectors(matrix: Float[Array, "n n"]) -> Factors:
    # The upper triangle is read, as by Cholesky's.
    values, vectors = jnp.linalg.eigh(matrix.T, symmetrize_input=False)
    return values, vectors


_function_compiled = eqx.filter_jit(matrix_function)


# Eigenvectors of the matrices whose values are known, for as long as those exist.
_KEPT: dict[int, Factors] = {}


def _once(key: Array, compute: Callable[[], Factors]) -> Factors:
    """What is computed of this array, which is kept with it."""
    if id(key) not in _KEPT:
        with jax.ensure_compile_time_eval():
            _KEPT[id(key)] = compute()
        weakref.finalize(key, _KEPT.pop, id(key), None)
    return _KEPT[id(key)]


@eqx.filter_jit
def _by_least_work(
    approximation: Approximation,
    matrix: Float[Array, "n n"],
    cholesky: Float[Array, "n n"],
    columns: Float[Array, "n columns"],
) -> Float[Array, "times n columns"]:
    inverse, shape = approximation.inverse, columns.shape
    at_all_times = lambda a: jnp.broadcast_to(a, (*inverse.shape, *shape))
    found = lax.cond(
        jnp.all(inverse),
        lambda: at_all_times(jnp.zeros_like(columns)),
        lambda: chebyshev_sum(approximation, matrix, columns),
    )
    solution = lax.cond(
        jnp.any(inverse),
        lambda: solve_by(cholesky, columns),
        lambda: columns,
    )
    return jnp.where(
        at_all_times(inverse[:, None, None]), at_all_times(solution), found
    )


@eqx.filter_custom_jvp
def _applied(
    matrix: Float[Array, "n n"],
    function: SpectralFunction,
    columns: Float[Array, "n columns"],
    how: tuple[NoisyKernel, Approximation],
) -> Float[Array, "times n columns"]:
    noisy, approximation = how
    return branch_of(
        noisy.definite & approximation.enough,
        lambda: _by_least_work(approximation, matrix, noisy.cholesky, columns),
        lambda: noisy.by_eigenvectors(matrix, function, columns),
    )


@_applied.def_jvp
def _applied_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """By the solve, where that is all and the function stays what it is.

    Of a polynomial, the derivative is less exact than the polynomial.
    """
    *primals, (noisy, approximation) = primals
    *tangents, _ = tangents
    exact = lambda: _both(noisy.by_eigenvectors, primals, tangents)
    if jax.tree.leaves(tangents[1]):
        return exact()
    times = approximation.inverse.shape[0]

    def solved(
        matrix: Float[Array, "n n"], _: object, columns: Float[Array, "n columns"]
    ) -> Float[Array, "times n columns"]:
        solution = _solved(matrix, columns, noisy.cholesky)
        return jnp.broadcast_to(solution[None], (times, *columns.shape))

    return branch_of(
        noisy.definite & jnp.all(approximation.inverse),
        lambda: _both(solved, primals, tangents),
        exact,
    )


def _both(function: Callable, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The value and its derivative, which is zero if nothing is moved."""
    out, d_out = eqx.filter_jvp(function, tuple(primals), tuple(tangents))
    return out, jnp.zeros_like(out) if d_out is None else d_out


@eqx.filter_custom_jvp
def _solved(
    matrix: Float[Array, "n n"],
    columns: Float[Array, "n columns"],
    cholesky: Float[Array, "n n"],
) -> Float[Array, "n columns"]:
    del matrix  # here for its tangent: it has this factor
    return solve_by(cholesky, columns)


@_solved.def_jvp
def _solved_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    matrix, columns, cholesky = primals
    d_matrix, d_columns, _ = tangents
    solution = _solved(matrix, columns, cholesky)
    change = jnp.zeros_like(columns) if d_columns is None else d_columns
    if d_matrix is not None:
        change = change - matmul((d_matrix + d_matrix.T) / 2, solution)
    return solution, _solved(matrix, change, cholesky)
