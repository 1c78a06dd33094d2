"""Gaussian expectations by quadrature in two dimensions, from a function alone."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float


# The values and slopes of an elementwise function, in the shape of its input.
Sampler: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_REACH = 9.0  # standard deviations that are integrated over
_OUTER_NODES, _INNER_NODES = 24, 80
# The inner expectation varies quickly near a break: pieces are shorter there.
_NEAR = np.array([-3.0, -0.5, -0.05, 0.0, 0.05, 0.5, 3.0])


def pair_expectations(
    fn: Sampler, std1: float, std2: float, correlation: float, breaks: Sequence[float]
) -> tuple[float, float]:
    r"""$\mathbb{E} f(u) f(v)$ and $\mathbb{E} f'(u) f'(v)$.

    The integral is taken inside out: $u = s z$ and
    $v = s' (\rho z + \sqrt{1 - \rho^2}\, y)$ for independent standard normal $y, z$.

    **Arguments:**

    - `fn`: the function and its slope.
    - `std1`, `std2`: the standard deviations, above zero.
    - `correlation`: the correlation of `u` and `v`, from -1 to 1.
    - `breaks`: all points where the function or its slope jumps.

    **Returns:** the two expectations.
    """
    places = [0.0, *(t / std1 for t in breaks)]
    if correlation:
        places += [t / (std2 * correlation) for t in breaks]
    z, weights = _composite_rule(np.add.outer(places, _NEAR), _OUTER_NODES)
    outer = np.stack(fn(std1 * z))
    rest = np.sqrt((1 - correlation) * (1 + correlation))
    if rest == 0:
        inner = np.stack(fn(correlation * std2 * z))
    else:
        inner = np.zeros_like(outer)
        low = np.full_like(z, -_REACH)
        for t in (*sorted(breaks), np.inf):
            high = (t / std2 - correlation * z) / rest
            high = np.clip(high, -_REACH, _REACH)
            y, inner_weights = _legendre(low, high, _INNER_NODES)
            values = np.stack(fn(std2 * (correlation * z[:, None] + rest * y)))
            inner, low = inner + np.sum(inner_weights * _normal(y) * values, -1), high
    value, slope = np.sum(weights * _normal(z) * outer * inner, -1)
    return float(value), float(slope)


def single_expectation(fn: Sampler, std: float, breaks: Sequence[float]) -> np.ndarray:
    r"""$\mathbb{E} f(u)$ and $\mathbb{E} f'(u)$, for a positive standard deviation."""
    z, weights = _composite_rule([0.0, *(t / std for t in breaks)], _INNER_NODES)
    return np.sum(weights * _normal(z) * np.stack(fn(std * z)), -1)


def _composite_rule(
    bounds: np.ndarray | Sequence[float], nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights between neighbouring bounds and as far as is integrated."""
    bounds = np.clip(bounds, -_REACH, _REACH)
    bounds = np.unique([-_REACH, *np.ravel(bounds), _REACH])
    z, weights = _legendre(bounds[:-1], bounds[1:], nodes)
    return z.ravel(), weights.ravel()


def _legendre(
    low: Float[np.ndarray, "*s"], high: Float[np.ndarray, "*s"], nodes: int
) -> tuple[Float[np.ndarray, "*s nodes"], Float[np.ndarray, "*s nodes"]]:
    x, weights = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * (high - low)[..., None]
    return low[..., None] + half * (x + 1), half * weights


def _normal(z: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
