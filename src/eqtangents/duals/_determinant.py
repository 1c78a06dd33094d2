r"""The correlation that duals of error functions and of Gaussians depend on.

With $u$ a multiple of the variance and $e = \sqrt{1 + u}$, all are functions of
$\rho = m / (e e')$, where $m$ is the same multiple of the covariance, and of

$$1 - \rho^2 = \frac{1 + u + u' + (u u' - m^2)}{e^2 e'^2}.$$

If the fourth term is formed from its products, then at large variances its rounding
exceeds the first three; so it is formed as $z (2 - z)\, u u'$ with the deficit $z$ of
the correlation. The ratios $u / e^2$ and $1 / e^2$ keep all terms from overflowing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._buffers import buffered_sum
from eqtangents.duals._elementary import inverse_root, reciprocal, valued
from eqtangents.duals._pair import Deviation, Pair, deviation


class Spread(NamedTuple):
    """`u / e**2`, `1 / e**2` and `1 / e` for one variance, and its deviation."""

    share: Float[Array, "..."]
    rest: Float[Array, "..."]
    reciprocal: Float[Array, "..."]
    deviation: Deviation


class Mixture(NamedTuple):
    """`rho`, `1 - rho**2` and `1 / (e e')`."""

    correlation: Float[Array, "..."]
    determinant: Float[Array, "..."]
    inverse: Float[Array, "..."]


def spread(variance: Float[Array, "*s"], factor: Float[Array, ""] | float) -> Spread:
    """The ratios for `u = factor * variance`; `1 / e` is zero unless `1 + u > 0`."""
    inverse = inverse_root(1 + factor * variance)
    rest = inverse * inverse
    # For an infinite variance `u / e**2` is one, and the others are zero.
    bounded = jnp.where(jnp.isinf(variance), 0, variance)
    share = jnp.where(jnp.isinf(variance), 1, bounded * rest * factor)
    return Spread(share, rest, inverse, deviation(variance))


@jax.custom_jvp
def mixed(
    pair: Pair, left: Spread, right: Spread, factor: Float[Array, ""] | float
) -> Mixture:
    """The correlation `rho` and its determinant, from both variances of a pair."""
    correlation, _, determinant = mixed_terms(pair, left, right, factor)
    return Mixture(correlation, determinant, left.reciprocal * right.reciprocal)


@mixed.defjvp
def _mixed_jvp(primals: tuple, tangents: tuple) -> tuple[Mixture, Mixture]:
    r"""All follow the change of $\rho$ and that of $\log (1 / (e e'))$.

    The latter alone is added up for each example, backwards.
    """
    (pair, left, right, factor), (d_pair, d_left, d_right, d_factor) = primals, tangents
    found = mixed(*primals)
    growth = lambda one, d_one: d_one.reciprocal * reciprocal(one.reciprocal)
    d_log = buffered_sum(growth(left, d_left), growth(right, d_right))
    rho, _, inverse = found
    d_rho = inverse * (factor * d_pair.cov + d_factor * pair.cov) + rho * d_log
    return found, Mixture(d_rho, -2 * rho * d_rho, inverse * d_log)


def mixed_terms(
    pair: Pair, left: Spread, right: Spread, factor: Float[Array, ""] | float
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """`rho`, the part `(u u' - m**2) / (e e')**2` of `1 - rho**2`, and all of it."""
    correlation = factor * pair.cov * left.reciprocal * right.reciprocal
    shares = left.share * right.share
    z = lax.stop_gradient(pair.deficit(left.deviation, right.deviation))
    minor = valued(
        z * (2 - z) * lax.stop_gradient(shares), shares - correlation * correlation
    )
    rests = left.rest * right.rest
    crossed = left.share * right.rest + left.rest * right.share
    return correlation, minor, rests + crossed + minor
