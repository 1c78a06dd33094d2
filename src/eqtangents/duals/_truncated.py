r"""Truncated moments of two correlated standard normal variables.

$$M_{mn}(h, k, \rho) = \mathbb{E} (X - h)_+^m (Y - k)_+^n, \qquad h, k \ge 0$$

with $x_+^0$ a step and, below, $x_+^{-1}$ its derivative, a delta function. $M_{00}$ is
a probability, which follows from Owen's function (Owen 1956)

$$T(h, a) = \frac{1}{2\pi} \int_0^a \frac{e^{-h^2 (1 + x^2) / 2}}{1 + x^2} dx.$$

Other $a$ reduce to $|a| \le 1$, where the integrand is smooth: a few nodes suffice at
all correlations, even where $X$ and $Y$ nearly coincide. Write $c_m$ for $m$, but 1
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


FARTHEST = 40.0  # standard deviations, beyond which any density rounds to zero
# Gauss-Legendre nodes on [-1, 1]. The integrand is even, so that half are evaluated.
_OWEN_NODES = {np.dtype(np.float32): 10, np.dtype(np.float64): 20}
# The moments `M[m, n]` by their indices, each from -1.
JointMoments: TypeAlias = dict[tuple[int, int], Float[Array, "..."]]


class _Differences(NamedTuple):
    """The distances of a correlation from 1 and from -1."""

    to_one: Float[Array, "..."]
    to_minus_one: Float[Array, "..."]


def density(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The density of a standard normal variable."""
    return jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))


def tail(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The probability that a standard normal variable is larger."""
    return 0.5 * lax.erfc(x * (1 / math.sqrt(2)))


def power_factor(n: int) -> int:
    """The factor `c_n` in the derivative of `x**n`: a step becomes a delta function."""
    return max(n, 1)


def truncated_moments(
    degree: int, h: Float[Array, "*s"]
) -> dict[int, Float[Array, "*s"]]:
    r"""$\mathbb{E} (X - h)_+^m$ for $m$ from -1, a delta function, to a degree."""
    moments = {-1: density(h), 0: tail(h)}
    for m in range(1, degree + 1):
        moments[m] = power_factor(m - 1) * moments[m - 2] - h * moments[m - 1]
    return moments


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def joint_moments(
    degree: int,
    h: Float[Array, "*s"],
    k: Float[Array, "*s"],
    correlation: Float[Array, "*s"],
    deficit: Float[Array, "*s"],
) -> JointMoments:
    """The moments up to a degree in either variable, by their indices from 0.

    The deficit, `1 - |correlation|`, is given as well, since near zero it may be known
    to more digits. It is a function of the correlation: its tangent is not used.
    """
    moments = _edge_moments(degree, h, k, correlation, deficit)
    moments[0, 0] = _both_above(h, k, _differences(correlation, deficit))
    for m in range(degree + 1):
        for n in range(degree + 1):
            if m > 0:
                moments[m, n] = (
                    power_factor(m - 1) * moments[m - 2, n]
                    + power_factor(n) * correlation * moments[m - 1, n - 1]
                    - h * moments[m - 1, n]
                )
            elif n > 0:
                moments[0, n] = (
                    power_factor(n - 1) * moments[0, n - 2]
                    + correlation * moments[-1, n - 1]
                    - k * moments[0, n - 1]
                )
    return {key: moments[key] for key in moments if min(key) >= 0}


@joint_moments.defjvp
def _joint_moments_jvp(
    degree: int, primals: tuple, tangents: tuple
) -> tuple[JointMoments, JointMoments]:
    d_h, d_k, d_correlation, _ = tangents
    moments = joint_moments(degree, *primals)
    below = _edge_moments(degree, *primals) | moments
    return moments, {
        (m, n): power_factor(m) * power_factor(n) * below[m - 1, n - 1] * d_correlation
        - power_factor(m) * below[m - 1, n] * d_h
        - power_factor(n) * below[m, n - 1] * d_k
        for m, n in moments
    }


def _edge_moments(
    degree: int,
    h: Float[Array, "*s"],
    k: Float[Array, "*s"],
    correlation: Float[Array, "*s"],
    deficit: Float[Array, "*s"],
) -> JointMoments:
    """The moments with one index or both equal to -1."""
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
    """Moments of `Y - k` given `X = h`, times the density of `X` at `h`, from -1 on.

    Given `X = h`, `Y - k` has the mean `-gap` and the standard deviation `root`.
    """
    gap, root = _gap_and_root(h, k, differences)
    # Variables that coincide go on to do so along any derivative that exists.
    apart = root > _smallest_root(root.dtype)
    scaled = gap / root
    scaled = jnp.where(apart, scaled, lax.stop_gradient(scaled))
    above, at_zero = tail(scaled), jnp.where(apart, density(scaled) / root, 0)
    square = root * root
    moments = [at_zero, above, square * at_zero - gap * above]
    for n in range(2, degree + 1):
        moments.append((n - 1) * square * moments[n - 1] - gap * moments[n])
    at_h = density(h)
    return [at_h * moment for moment in moments[: degree + 2]]


def _differences(
    correlation: Float[Array, "*s"], deficit: Float[Array, "*s"]
) -> _Differences:
    """Both distances; the smaller is the deficit, to which subtracting lost digits."""
    deficit = lax.stop_gradient(deficit)
    opposite = correlation < 0
    return _Differences(
        valued(jnp.where(opposite, 2 - deficit, deficit), 1 - correlation),
        valued(jnp.where(opposite, deficit, 2 - deficit), 1 + correlation),
    )


def _gap_and_root(
    h: Float[Array, "*s"], k: Float[Array, "*s"], differences: _Differences
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    r"""$k - \rho h$ and $\sqrt{1 - \rho^2}$.

    The root is at least the rounding of one, which changes moments by as much. So they
    are continuous where a compiler computes a quantity twice, differently rounded, and
    finds it zero in one place alone.
    """
    to_one, to_minus_one = differences
    root = safe_sqrt(to_one * to_minus_one)
    return (k - h) + to_one * h, jnp.maximum(root, _smallest_root(root.dtype))


def _smallest_root(dtype: np.dtype) -> float:
    return float(jnp.finfo(dtype).eps)


def _both_above(
    h: Float[Array, "*s"], k: Float[Array, "*s"], differences: _Differences
) -> Float[Array, "*s"]:
    """The probability of `X > h` and `Y > k`."""
    # Zero bounds are moved to a tiny one, since Owen's function takes their ratio.
    h, k = (jnp.maximum(bound, jnp.asarray(1e-15, bound.dtype)) for bound in (h, k))
    outside = _owen(h, *_gap_and_root(h, k, differences))
    outside += _owen(k, *_gap_and_root(k, h, differences))
    return 0.5 * (tail(h) + tail(k)) - outside


def _owen(
    h: Float[Array, "*s"], gap: Float[Array, "*s"], root: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """`T(h, gap / (h root))`.

    If the second argument `a` exceeds one, `T(a h, 1 / a)` is integrated instead, since
    the sum of the two is known in closed form.
    """
    size, other = jnp.abs(gap), h * root
    steep = size > other
    small, large = (jnp.where(steep, a, b) for a, b in ((other, size), (size, other)))
    slope = small * reciprocal(large)
    far = jnp.minimum(size / root, FARTHEST)
    integral = _owen_integral(jnp.where(steep, far, h), slope)
    near, beyond = tail(h), tail(far)
    whole = 0.5 * (near + beyond) - near * beyond
    return jnp.sign(gap) * jnp.where(steep, whole - integral, integral)


def _owen_integral(h: Float[Array, "*s"], a: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`T(h, a)` for `a` from 0 to 1, by quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(_OWEN_NODES[np.dtype(a.dtype)])
    half_square, square = -0.5 * h * h, a * a
    total = jnp.zeros_like(a)
    for node, weight in zip(nodes, weights, strict=True):
        if node > 0:
            stretched = 1 + float(node * node) * square
            total += float(weight) * jnp.exp(half_square * stretched) / stretched
    return (0.5 / math.pi) * a * total
