"""Functions of a variance that cost much: found at few variances, for many."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from eqtangents._products import matmul


# Numbers of each variance; those of one kind lie in a row.
NumberRows: TypeAlias = Sequence[Float[Array, "_ ..."]]

_KNOTS = 48  # enough for smooth functions and four orders of magnitude
# Largest errors, relative to the norm of the rows: so many units of rounding, or a
# number that is far below the errors of expansions.
_UNITS, _TOLERANCE = 16, 1e-12
WORTHWHILE = 8 * _KNOTS  # variances, from which on this spares work


def from_few(
    function: Callable[[Float[Array, " m"]], NumberRows],
    variance: Float[Array, "n *size"],
) -> tuple[NumberRows, Bool[Array, ""]]:
    r"""`function(variance)` by interpolation, and whether that is right.

    The function must be smooth in the logarithm of the variance. It is found at
    Chebyshev's nodes between the smallest positive variance and the largest, and, to
    judge the result, halfway between any two of them. Variances of zero count as the
    smallest.

    **Source:** Berrut & Trefethen 2004, "Barycentric Lagrange interpolation",
    equations 4.2 and 5.4.
    """
    largest = jnp.max(variance)
    smallest = jnp.min(jnp.where(variance > 0, variance, largest))
    low, high = jnp.log(smallest), jnp.log(largest)
    middle, half = (low + high) / 2, jnp.maximum((high - low) / 2, 1e-3)

    angles = np.pi * np.arange(1, 2 * _KNOTS) / (2 * _KNOTS)
    places = jnp.asarray(np.cos(angles), variance.dtype)
    found = function(jnp.exp(middle + half * places))
    nodes, between = (places[i::2] for i in (0, 1))
    known, expected = ([row[:, i::2] for row in found] for i in (0, 1))
    judged = _barycentric(known, nodes, between)
    close = [_is_close(*both) for both in zip(judged, expected, strict=True)]

    log = jnp.log(jnp.maximum(variance, smallest)).ravel()
    rows = _barycentric(known, nodes, (log - middle) / half)
    rows = [row.reshape(-1, *variance.shape) for row in rows]
    return rows, jnp.stack(close).all() & jnp.isfinite(largest) & (largest > 0)


def _barycentric(
    known: NumberRows, nodes: Float[Array, " nodes"], places: Float[Array, " n"]
) -> NumberRows:
    """Polynomials through what is known at Chebyshev's nodes, at some places."""
    angles = np.pi * (2 * np.arange(_KNOTS) + 1) / (2 * _KNOTS)
    weights = (-1.0) ** np.arange(_KNOTS) * np.sin(angles)
    distance = jnp.subtract.outer(places, nodes).T
    # At a node, one term outweighs all others.
    distance = jnp.where(distance == 0, 1e-30, distance)
    terms = jnp.asarray(weights, nodes.dtype)[:, None] / distance
    # As one product: sums along the first axis alone are slow on CPUs.
    one = jnp.ones((1, _KNOTS), nodes.dtype)
    *sums, total = jnp.split(
        matmul(jnp.concatenate([*known, one]), terms),
        np.cumsum([row.shape[0] for row in known]),
    )
    return [rows / total for rows in sums]


def _is_close(
    found: Float[Array, "rows n"], expected: Float[Array, "rows n"]
) -> Bool[Array, ""]:
    error = jnp.max(jnp.abs(found - expected), 0)
    allowed = max(_UNITS * float(jnp.finfo(found.dtype).eps), _TOLERANCE)
    return jnp.all(error <= allowed * jnp.linalg.norm(expected, axis=0))
