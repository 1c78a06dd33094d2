"""Arc-cosine kernels: expectations of powers of two rectified Gaussians."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._buffers import buffered_sum, in_one_loop
from eqtangents.duals._elementary import angle_factors, safe_sqrt, valued
from eqtangents.duals._pair import Deviation, Pair, deviation, rounding


@jax.custom_jvp
def arc_cosine(
    pair: Pair, left: Deviation, right: Deviation
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Arc-cosine kernels of order 1 and 0 (Cho & Saul 2009, eq. 3 to 6).

    With $\theta$ the angle between the inputs,
    $\frac{s s'}{2\pi} (\sin\theta + (\pi - \theta) \cos\theta)$ and
    $\frac{\pi - \theta}{2 \pi}$. Zero makes a right angle with everything.
    """
    cov, root = pair.cov, safe_sqrt(pair.deficit(left, right))
    z = root * root
    angle, integral = angle_factors(z)
    size = (0.5 / math.pi) * (left.std * right.std)
    value = 0.5 * lax.max(cov, jnp.zeros_like(cov)) + size * (z * root * integral)
    acute = (0.5 / math.pi) * (root * angle)
    return value, lax.select(cov > 0, 0.5 - acute, acute)


@arc_cosine.defjvp
def _arc_cosine_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    """The rule is made of differentiable functions, so that it can be differentiated.

    Derivatives of the angle divide a difference by its sine. Where the angle itself
    could be rounding, the difference is nothing but rounding: there these derivatives
    count as zero, which is right where inputs coincide.
    """
    (pair, left, right), (d_pair, d_left, d_right) = primals, tangents
    value, derivative = arc_cosine(*primals)
    d_log = _growth_of_size(left, right, d_left, d_right)
    sine, cosecant = _sine_and_cosecant(pair, left, right)
    size = left.std * right.std
    d_value = derivative * d_pair.cov + (0.5 / math.pi) * sine * size * d_log
    per_size = left.reciprocal * right.reciprocal
    slope = (0.5 / math.pi) * cosecant * per_size
    d_derivative = slope * (d_pair.cov - pair.cov * d_log)
    return (value, derivative), (d_value, d_derivative)


def _sine_and_cosecant(
    pair: Pair, left: Deviation, right: Deviation
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""$\sin\theta$, and $1 / \sin\theta$ where the angle is certain, else zero.

    Both follow from the root of the deficit $z$, which the values of the kernels need
    as well: $\sin\theta = \sqrt{z (2 - z)}$.
    """
    root = certain = safe_sqrt(pair.deficit(left, right))
    if pair.gap is not None:  # Else the deficit itself is certain.
        some = root * root > rounding(root.dtype)
        certain = jnp.where(some, root, jnp.zeros_like(root))
    cosecant, z = in_one_loop(_cosecant, certain), certain * certain
    formula = z * (2 - z) * cosecant
    if pair.gap is None:
        return formula, cosecant
    sine = jnp.where(certain > 0, formula, 2**0.5 * root)
    return valued(lax.stop_gradient(sine), formula), cosecant


# Its derivative multiplies alone, what compilers would divide.
@jax.custom_jvp
def _cosecant(root: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`1 / sin(angle)`, of an angle whose deficit has this root; zero at zero."""
    some = jnp.where(root > 0, root, jnp.ones_like(root))
    cosecant = 1 / (some * jnp.sqrt(2 - some * some))
    return jnp.where(root > 0, cosecant, jnp.zeros_like(root))


@_cosecant.defjvp
def _cosecant_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (root,), (d_root,) = primals, tangents
    cosecant = _cosecant(root)
    square = cosecant * cosecant
    return cosecant, -2 * root * (1 - root * root) * square * cosecant * d_root


def _growth_of_size(
    left: Deviation, right: Deviation, d_left: Deviation, d_right: Deviation
) -> Float[Array, "..."]:
    """The derivative of the logarithm of `s s'`, without a deviation that is zero.

    Backwards, what is added up for each example is computed once, and not by compilers
    for either end; those of all pairs of an example are added up before anything else.
    """
    growth = lambda end, d_end: d_end.std * end.reciprocal
    return buffered_sum(growth(left, d_left), growth(right, d_right))


def rectified_gap(
    pair: Pair, left: Deviation, right: Deviation
) -> Float[Array, "..."] | None:
    r"""The gap of the arc-cosine kernel of order 1, if the gap $g$ of inputs is known.

    It is $\frac{g}{2} - \frac{s s'}{2\pi} (\sin\theta - \theta \cos\theta)$, whose
    second term is of higher order. Beyond right angles the first term is
    $\frac{s s'}{2}$, and $\pi - \theta$ takes the place of $\theta$ in the second.
    """
    if pair.gap is None:
        return None
    root = lax.stop_gradient(safe_sqrt(pair.deficit(left, right)))
    z = root * root
    _, integral = angle_factors(z)
    size = left.std * right.std
    bent = (0.5 / math.pi) * size * (z * root * integral)
    return lax.stop_gradient(0.5 * lax.min(pair.gap, size) - bent)


class Rectified(NamedTuple):
    """The deviation of an end of a pair, and what `arc_cosine_of_sum` needs besides.

    That is the deviation, however large, and its root, one where it is zero.
    """

    deviation: Deviation
    std: Float[Array, "..."]
    root: Float[Array, "..."]

    @classmethod
    def of(cls, variance: Float[Array, "*s"]) -> "Rectified":
        std = safe_sqrt(variance)
        positive = jnp.where(std > 0, std, jnp.ones_like(std))
        return cls(deviation(variance), std, jnp.sqrt(positive))


def arc_cosine_of_sum(
    pair: Pair, left: Rectified, right: Rectified, *, nonnegative: bool
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    r"""What `arc_cosine` gives, and the covariance $k$, by one number for each pair.

    It is $w = \mathrm{sign}(k) \sqrt{1 - |k| / (s s')}$, so that
    $k = \mathrm{sign}(w) (1 - w^2) s s'$. There are no derivatives. `nonnegative`:
    whether no covariance is less than zero.
    """
    size = left.std * right.std
    if nonnegative:
        root = jnp.sqrt(pair.deficit(left.deviation, right.deviation))
        z = root * root
        cov = rectified = (1 - z) * size
    else:
        signed = _signed_root(pair, left, right)
        root, z = lax.abs(signed), signed * signed
        cov = jnp.copysign((1 - z) * size, signed)
        rectified = lax.max(cov, jnp.zeros_like(cov))
    angle, integral = angle_factors(z)
    # Where a variance overflows, its product with an angle of zero stays zero.
    size = lax.min(size, jnp.full_like(size, jnp.finfo(size.dtype).max))
    bent = (0.5 / math.pi) * size * (z * root * integral)
    acute = (0.5 / math.pi) * (root * angle)
    obtuse = 0.5 - acute
    derivative = obtuse if nonnegative else lax.select(cov > 0, obtuse, acute)
    return 0.5 * rectified + bent, derivative, cov


def _signed_root(pair: Pair, left: Rectified, right: Rectified) -> Float[Array, "..."]:
    """The root of `1 - |correlation|`, with the sign of the covariance.

    Compilers repeat signs as they do all cheap operations, but never a division: so
    that comes last.
    """
    root = left.root * right.root
    size = root * root
    limit = rounding(size.dtype) if pair.tolerance is None else pair.tolerance
    below = size - lax.abs(pair.cov)
    below = jnp.where(below > limit * size, below, jnp.zeros_like(below))
    return jnp.copysign(jnp.sqrt(below), pair.cov) / root


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def arc_cosine_of_degree(
    degree: int, pair: Pair, left: Deviation, right: Deviation
) -> Float[Array, "..."]:
    r"""$K_n = E u_+^n v_+^n$, a multiple of the arc-cosine kernel of order $n$.

    It is found by $K_{n+1} = (2n + 1)\, k K_n + n^2 (s^2 s'^2 - k^2)\, K_{n-1}$, which
    follows from eq. 4 of Cho & Saul 2009: with $c = \cos\theta$, the $n$-th derivative
    $F_n$ in $c$ of $F_0 = (\pi - \theta) / \sin\theta$ has
    $(1 - c^2) F_{n+1} = (2n + 1)\, c F_n + n^2 F_{n-1}$ for $n \ge 1$, and
    $2\pi K_n = (s s')^n \sin^{2n+1}\theta\, F_n$.
    """
    above, below = arc_cosine(pair, left, right)
    if degree == 0:
        return below
    minor = _minor(pair, left, right)
    for n in range(1, degree):
        above, below = (2 * n + 1) * pair.cov * above + n * n * minor * below, above
    return above


def _minor(pair: Pair, left: Deviation, right: Deviation) -> Float[Array, "..."]:
    r"""$s^2 s'^2 - k^2$."""
    size, z = left.std * right.std, lax.stop_gradient(pair.deficit(left, right))
    formula = (size - pair.cov) * (size + pair.cov)
    return valued(lax.stop_gradient(size * size) * (z * (2 - z)), formula)


@arc_cosine_of_degree.defjvp
def _arc_cosine_of_degree_jvp(
    degree: int, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    r"""$\partial_k K_n = n^2 K_{n-1}$; $K_n$ is homogeneous in $k$ and $s s'$."""
    if degree < 2:
        values, d_values = jax.jvp(arc_cosine, primals, tangents)
        return values[1 - degree], d_values[1 - degree]
    (pair, left, right), (d_pair, d_left, d_right) = primals, tangents
    n = degree
    below, lowest = (arc_cosine_of_degree(n - i, *primals) for i in (1, 2))
    d_log = _growth_of_size(left, right, d_left, d_right)
    along_size = pair.cov * below + (n - 1) * _minor(*primals) * lowest
    tangent = n * n * below * d_pair.cov + n * (n - 1) * along_size * d_log
    return arc_cosine_of_degree(n, *primals), tangent
