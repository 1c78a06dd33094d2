r"""Truncated moments of two correlated standard normal variables.

$$M_{mn}(h, k, \rho) = \mathbb{E} (X - h)_+^m (Y - k)_+^n, \qquad h, k \ge 0$$

with $x_+^0$ a step and, below, $x_+^{-1}$ its derivative, a delta function. $M_{00}$ is
a probability, by Owen's function (Owen 1956)

$$T(h, a) = \frac{1}{2\pi} \int_0^a \frac{e^{-h^2 (1 + x^2) / 2}}{1 + x^2} dx.$$

Its integrand is smooth for $|a| \le 1$, as $a$ can always be made: a few nodes suffice
at all correlations, also where $X$ and $Y$ nearly coincide. Write $c_m$ for $m$, but 1
for $m = 0$. The other moments follow by Stein's lemma,

$$M_{mn} = c_{m-1} M_{m-2,\, n} + c_n \rho M_{m-1,\, n-1} - h M_{m-1,\, n},$$

and derivatives are $\partial_\rho M_{mn} = c_m c_n M_{m-1,\, n-1}$ and
$\partial_h M_{mn} = -c_m M_{m-1,\, n}$.
"""

import functools
import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from eqtangents.duals._elementary import reciprocal, safe_sqrt, valued


FARTHEST = 40.0  # standard deviations: in any precision there is nothing beyond
# Gauss-Legendre nodes on [-1, 1] for even functions, of which half are needed.
_NODES = {np.dtype(np.float32): 10, np.dtype(np.float64): 20}
# Moments by their indices, each from -1.
Moments: TypeAlias = dict[tuple[int, int], Float[Array, "..."]]


class _Differences(NamedTuple):
    """Of a correlation to 1 and to -1: `1 - correlation`, and `1 + correlation`."""

    to_one: Float[Array, "..."]
    to_minus_one: Float[Array, "..."]


def density(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The density of a standard normal variable."""
    return jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))


def tail(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The probability that a standard normal variable is larger."""
    return 0.5 * lax.erfc(x * (1 / math.sqrt(2)))


def factor(n: int) -> int:
    """Of the derivative of the power `n`: that of a step is a delta function."""
    return max(n, 1)


def truncated_moments(
    degree: int, h: Float[Array, "*s"]
) -> dict[int, Float[Array, "*s"]]:
    r"""$\mathbb{E} (X - h)_+^m$ for $m$ from -1, a delta function, to a degree."""
    moments = {-1: density(h), 0: tail(h)}
    for m in range(1, degree + 1):
        moments[m] = factor(m - 1) * moments[m - 2] - h * moments[m - 1]
    return moments


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def joint_moments(
    degree: int,
    h: Float[Array, "*s"],
    k: Float[Array, "*s"],
    correlation: Float[Array, "*s"],
    deficit: Float[Array, "*s"],
) -> Moments:
    """The moments up to a degree in either variable, by their indices from 0.

    The deficit, `1 - |correlation|`, is given besides: near zero it may be known to
    more digits. It follows from the correlation, so that no derivative is its own.
    """
    moments = _edges(degree, h, k, correlation, deficit)
    moments[0, 0] = _both_above(h, k, _differences(correlation, deficit))
    for m in range(degree + 1):
        for n in range(degree + 1):
            if m > 0:
                moments[m, n] = (
                    factor(m - 1) * moments[m - 2, n]
                    + factor(n) * correlation * moments[m - 1, n - 1]
                    - h * moments[m - 1, n]
                )
            elif n > 0:
                moments[0, n] = (
                    factor(n - 1) * moments[0, n - 2]
                    + correlation * moments[-1, n - 1]
                    - k * moments[0, n - 1]
                )
    return {key: moments[key] for key in moments if min(key) >= 0}


@joint_moments.defjvp
def _joint_moments_jvp(
    degree: int, primals: tuple, tangents: tuple
) -> tuple[Moments, Moments]:
    d_h, d_k, d_correlation, _ = tangents
    moments = joint_moments(degree, *primals)
    below = _edges(degree, *primals) | moments
    return moments, {
        (m, n): factor(m) * factor(n) * below[m - 1, n - 1] * d_correlation
        - factor(m) * below[m - 1, n] * d_h
        - factor(n) * below[m, n - 1] * d_k
        for m, n in moments
    }


def _edges(
    degree: int,
    h: Float[Array, "*s"],
    k: Float[Array, "*s"],
    correlation: Float[Array, "*s"],
    deficit: Float[Array, "*s"],
) -> Moments:
    """The moments of which one index or both are -1."""
    differences = _differences(correlation, deficit)
    on_h = _on_edge(degree, h, k, differences)
    on_k = _on_edge(degree, k, h, differences)
    edges = {(-1, n - 1): moment for n, moment in enumerate(on_h)}
    return edges | {(m, -1): moment for m, moment in enumerate(on_k[1:])}


def _on_edge(
    degree: int,
    h: Float[Array, "*s"],
    k: Float[Array, "*s"],
    differences: _Differences,
) -> list[Float[Array, "*s"]]:
    """Moments of `Y - k` where `X = h`, times the density of that, from -1 on.

    There `Y - k` has the mean `-gap` and the standard deviation `root`.
    """
    gap, root = _gap_and_root(h, k, differences)
    inverse = reciprocal(root)
    scaled = _scaled(gap, root)
    above, at_zero = tail(scaled), density(scaled) * inverse
    square = root * root
    moments = [at_zero, above, square * at_zero - gap * above]
    for n in range(2, degree + 1):
        moments.append((n - 1) * square * moments[n - 1] - gap * moments[n])
    at_h = density(h)
    return [at_h * moment for moment in moments[: degree + 2]]


def _differences(
    correlation: Float[Array, "*s"], deficit: Float[Array, "*s"]
) -> _Differences:
    """Of which the smaller is the deficit, whose digits subtracting may have lost."""
    deficit = lax.stop_gradient(deficit)
    opposite = correlation < 0
    return _Differences(
        valued(jnp.where(opposite, 2 - deficit, deficit), 1 - correlation),
        valued(jnp.where(opposite, deficit, 2 - deficit), 1 + correlation),
    )


def _gap_and_root(
    h: Float[Array, "*s"], k: Float[Array, "*s"], differences: _Differences
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    r"""$k - \rho h$ and $\sqrt{1 - \rho^2}$."""
    to_one, to_minus_one = differences
    return (k - h) + to_one * h, safe_sqrt(to_one * to_minus_one)


def _scaled(gap: Float[Array, "*s"], root: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`gap / root`, or as far as it gets."""
    ratio = gap * reciprocal(root)
    return jnp.where(root > 0, ratio, jnp.sign(gap) * FARTHEST)


def _both_above(
    h: Float[Array, "*s"], k: Float[Array, "*s"], differences: _Differences
) -> Float[Array, "*s"]:
    """The probability of `X > h` and `Y > k`."""
    # At zero, where the ratio of the two is lost, the same as right above.
    h, k = (jnp.maximum(bound, jnp.asarray(1e-15, bound.dtype)) for bound in (h, k))
    outside = _owen(h, *_gap_and_root(h, k, differences))
    outside += _owen(k, *_gap_and_root(k, h, differences))
    return 0.5 * (tail(h) + tail(k)) - outside


def _owen(
    h: Float[Array, "*s"], gap: Float[Array, "*s"], root: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """`T(h, gap / (h root))`.

    By `T(h, a) + T(a h, 1 / a)`, which is known, if the second argument exceeds one.
    """
    size, other = jnp.abs(gap), h * root
    steep = size > other
    small, large = (jnp.where(steep, a, b) for a, b in ((other, size), (size, other)))
    slope = small * reciprocal(large)
    far = jnp.minimum(jnp.abs(_scaled(gap, root)), FARTHEST)
    integral = _owen_integral(jnp.where(steep, far, h), slope)
    near, beyond = tail(h), tail(far)
    whole = 0.5 * (near + beyond) - near * beyond
    return jnp.sign(gap) * jnp.where(steep, whole - integral, integral)


def _owen_integral(h: Float[Array, "*s"], a: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`T(h, a)` for `a` from 0 to 1, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES[np.dtype(a.dtype)])
    half_square, square = -0.5 * h * h, a * a
    total = jnp.zeros_like(a)
    for node, weight in zip(nodes, weights, strict=True):
        if node > 0:
            stretched = 1 + float(node * node) * square
            total += float(weight) * jnp.exp(half_square * stretched) / stretched
    return (0.5 / math.pi) * a * total
