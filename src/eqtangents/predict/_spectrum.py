"""Functions of a symmetric matrix, by its eigenvalues and eigenvectors."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents._products import einsum, matmul
from eqtangents._types import Scalar
from eqtangents.predict._arguments import array_argument
from eqtangents.predict._definiteness import NOT_POSITIVE, refuse_indefinite
from eqtangents.predict._rounding import LARGE, rounding_of


# Entry by entry on the last axis; it may add axes before it. A pytree.
SpectralFunction: TypeAlias = Callable[[Float[Array, " n"]], Float[Array, "*batch n"]]


Factors: TypeAlias = tuple[Float[Array, " n"], Float[Array, "n n"]]


class Spectrum(eqx.Module):
    r"""A positive semi-definite matrix $K = U \Lambda U^\top$, factorised once.

    Eigenvalues that rounding made negative are zero, or the noise. Without noise, those
    within rounding are zero too where they can be told from the others: the matrix has
    no full rank then, as for equal examples or a linear network.

    The eigenvectors of repeated eigenvalues have no derivatives, but functions of the
    matrix have: `apply` is differentiable with respect to the matrix always.
    """

    matrix: Float[Array, "n n"]
    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]
    rounding: Float[Array, ""]  # of eigenvalues, if some may be zero or may be not

    def __init__(
        self,
        kernel: Float[Array, "n n"],
        noise: Float[Array, " n"] | None = None,
        *,
        scale: Scalar = 0.0,
        message: str = NOT_POSITIVE,
        factors: Factors | None = None,
    ):
        """Factorise.

        **Arguments:**

        - `kernel`: symmetric.
        - `noise`: on its diagonal; the least of it is what eigenvalues are known to
            exceed.
        - `scale`: size of the terms whose difference the kernel is, if it is one.
        - `message`: what to say if it is not positive semi-definite.
        - `factors`: eigenvalues and eigenvectors of the two together, if known.

        **Raises:** `ValueError` if it is not square. `RuntimeError` if an eigenvalue is
        more negative than rounding could make it, or the noise not large against one
        that is.

        **Cost:** about $9 n^3$ multiply-adds, at most.
        """
        kernel = array_argument("kernel", kernel)
        if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
            raise ValueError(
                f"`kernel` has shape {kernel.shape}, but a symmetric matrix is needed."
            )
        n, dtype = kernel.shape[0], kernel.dtype
        noise = jnp.zeros(n, dtype) if noise is None else noise
        self.matrix = kernel + jnp.diag(noise)
        fixed = lax.stop_gradient(self.matrix)
        values, self.vectors = jnp.linalg.eigh(fixed) if factors is None else factors
        smallest = least_eigenvalue(values)
        values = refuse_indefinite(
            values,
            smallest,
            least_noise(noise),
            kernel,
            noise,
            scale=scale,
            message=message,
        )
        self.values, self.rounding = forgiven(values, kernel, noise)

    def apply(
        self, function: SpectralFunction, columns: Float[Array, "n columns"]
    ) -> Float[Array, "*batch n columns"]:
        r"""$f(K) v = U f(\Lambda) U^\top v$ for each column $v$."""
        factors = lax.stop_gradient((self.values, self.vectors))
        return matrix_function(self.matrix, function, columns, factors)


def least_noise(noise: Float[Array, " n"]) -> Float[Array, ""]:
    """The least of it, zero where there are no examples."""
    floor = lax.stop_gradient(jnp.min(noise, initial=jnp.inf))
    return jnp.where(jnp.isinf(floor), 0, floor)


def least_eigenvalue(values: Float[Array, " n"]) -> Float[Array, ""]:
    """The first of ascending ones, infinity of none.

    It is NaN if they were not found: a minimum of many numbers may lose that on CPUs.
    """
    return values[0] if values.size else jnp.asarray(jnp.inf, values.dtype)


def forgiven(
    values: Float[Array, " n"], kernel: Float[Array, "n n"], noise: Float[Array, " n"]
) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """Eigenvalues that are not refused, without what is known to be rounding.

    **Returns:** the eigenvalues, and what of them may be rounding, if that is not told.
    """
    floor, smallest = least_noise(noise), least_eigenvalue(values)
    rounding = jnp.maximum(rounding_of(lax.stop_gradient(kernel)), -smallest)
    within, beyond = values <= rounding, values > LARGE * rounding
    told = (floor > 0) | ~jnp.any(within) | jnp.all(within | beyond)
    values = jnp.where(told & within & (floor == 0), 0, values)
    return jnp.maximum(values, floor), jnp.where(told, 0, rounding)


def differentiated_as(formula: Callable) -> Callable[[Callable], Any]:
    """Have a function the derivatives of another one of the same arguments.

    The last argument of both, eigenvalues and eigenvectors, is fixed: all that moves is
    in the formula, which JAX differentiates as it is. So derivatives of any order that
    the formula has are right, in whichever mode they are taken.
    """

    def with_its_derivatives(function: Callable) -> Any:
        joined: Any = eqx.filter_custom_jvp(function)

        @joined.def_jvp
        def derivative(primals: Any, tangents: Any) -> tuple[Array, Array]:
            *moving, factors = primals
            *directions, _ = tangents
            at_factors = lambda *arguments: formula(*arguments, factors)
            _, tangent = eqx.filter_jvp(at_factors, tuple(moving), tuple(directions))
            return joined(*primals), tangent

        return joined

    return with_its_derivatives


def _expanded(
    matrix: Float[Array, "n n"],
    function: SpectralFunction,
    columns: Float[Array, "n columns"],
    factors: Factors,
) -> Float[Array, "*batch n columns"]:
    r"""$f(K) v$ to second order in the change of the matrix, in the basis $U$.

    With divided differences $f_{ij}$ and $f_{ikj}$ at the eigenvalues, and the change
    $A = U^\top\, dK\, U$, the factors of $U^\top v$ are
    $f_i \delta_{ij} + f_{ij} A_{ij} + \sum_k f_{ikj} A_{ik} A_{kj}$ (Daleckii & Krein).
    """
    values, vectors = factors
    half = (matrix + matrix.T) / 2
    change = matmul(matmul(vectors.T, half - lax.stop_gradient(half)), vectors)
    coordinates = matmul(vectors.T, columns)
    slopes = _divided_differences(function, values)
    turned = slopes * jnp.broadcast_to(change, slopes.shape)
    turned += _second_order(function, values, slopes, change)
    moved = einsum("...ij,jc->...ic", turned, coordinates)
    moved += einsum("...i,ic->...ic", function(values), coordinates)
    return einsum("ji,...ic->...jc", vectors, moved)


@differentiated_as(_expanded)
def matrix_function(
    matrix: Float[Array, "n n"],
    function: SpectralFunction,
    columns: Float[Array, "n columns"],
    factors: Factors,
) -> Float[Array, "*batch n columns"]:
    """`Spectrum.apply`, for a matrix of these eigenvalues and eigenvectors."""
    del matrix  # here for its tangent: it is `factors`
    values, vectors = factors
    return _from_basis(vectors, function(values), matmul(vectors.T, columns))


def _second_order(
    function: SpectralFunction,
    values: Float[Array, " n"],
    slopes: Float[Array, "*batch n n"],
    change: Float[Array, "n n"],
) -> Float[Array, "*batch n n"]:
    r"""$\sum_k f_{ikj} A_{ik} A_{kj}$, without the array of all $f_{ikj}$.

    If $\lambda_i$ and $\lambda_j$ are apart, $f_{ikj}$ is the difference of $f_{ik}$
    and $f_{jk}$ divided by theirs. If they are close, it is the mean of $f_{iik}$ and
    $f_{jjk}$, which are derivatives of $f_{ik}$.
    """
    n = values.shape[0]
    row, column = values[:, None], values[None, :]
    wide = lambda a: jnp.broadcast_to(a, slopes.shape)
    distance, close = row - column, wide(_nearly_equal(values))
    safe = wide(jnp.where(_nearly_equal(values), 1, distance))
    slope_of = lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),))[1]
    middle = ((2 * row + column) / 3).reshape(n * n)
    _, bend = jax.jvp(slope_of, (middle,), (jnp.ones_like(middle),))
    first = slope_of(values)[..., :, None]
    bends = jnp.where(
        close, bend.reshape(slopes.shape) / 2, (wide(first) - slopes) / safe
    )
    apart = matmul(slopes * wide(change), wide(change))
    together = matmul(bends * wide(change), wide(change))
    return jnp.where(
        close,
        (together + together.swapaxes(-1, -2)) / 2,
        (apart - apart.swapaxes(-1, -2)) / safe,
    )


def _from_basis(
    vectors: Float[Array, "n n"],
    factors: Float[Array, "*batch n"],
    coordinates: Float[Array, "n columns"],
) -> Float[Array, "*batch n columns"]:
    scaled = einsum("...i,ic->...ic", factors, coordinates)
    return einsum("ji,...ic->...jc", vectors, scaled)


def _divided_differences(
    function: SpectralFunction, values: Float[Array, " n"]
) -> Float[Array, "*batch n n"]:
    r"""The quotients $(f(\lambda_i) - f(\lambda_j)) / (\lambda_i - \lambda_j)$.

    By the theorem of Daleckii and Krein, these are the derivative of the matrix
    function in the basis of the eigenvectors. Of values that are close, the difference
    would be rounding: there it is the slope between them, with an error of second order
    in their distance.
    """
    n = values.shape[0]
    row, column = values[:, None], values[None, :]
    distance, middle = row - column, (row + column) / 2
    close = _nearly_equal(values)
    _, slope = jax.jvp(
        lambda x: function(x.reshape(n * n)), (middle,), (jnp.ones_like(middle),)
    )
    slope = slope.reshape(*slope.shape[:-1], n, n)
    image = function(values)
    difference = image[..., :, None] - image[..., None, :]
    quotient = difference / jnp.broadcast_to(
        jnp.where(close, 1, distance), difference.shape
    )
    return jnp.where(jnp.broadcast_to(close, slope.shape), slope, quotient)


def _nearly_equal(values: Float[Array, " n"]) -> Bool[Array, "n n"]:
    """Which eigenvalues are so close that differences would be rounding."""
    row, column = values[:, None], values[None, :]
    near = float(jnp.finfo(values.dtype).eps) ** (1 / 3)
    return jnp.abs(row - column) <= near * (row + column)
