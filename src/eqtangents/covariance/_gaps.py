"""Gaps of covariances to the products of deviations, where positions play no part.

Between inputs of deep networks the gap `s s' - k` is far below the rounding of `k`, so
rules pass it on beside the covariance (`eqtangents.duals._pair` says why).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents.covariance._block import Block, Evaluation, Lookup
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame
from eqtangents.duals._elementary import valued
from eqtangents.duals._pair import OF_ONE, Pair, deviation, measured_gap, rounding


_NODES = 8  # of the quadrature, which is over small gaps alone
_BY_SLOPE = 1e3  # how much larger a gap may become


def tracks_gaps(frame: Frame, node: AbstractCovariance) -> bool:
    """Whether the blocks of a node have gaps: where there are no positions.

    Sums over positions would have to subtract, and gain nothing.
    """
    return frame.canvas is None and not frame.self_pairs and not node.outline.rank


def deviations(frame: Frame, node: AbstractCovariance) -> Lookup[tuple[Array, Array]]:
    """Register a node's standard deviations, where positions play no part."""
    build = lambda: frame.per_example(deviation(frame.scope.variance(node)).std, 0, 1.0)
    return frame.once(node, "deviations", build)


def with_gaps(
    frame: Frame, node: AbstractCovariance
) -> Callable[[Evaluation, Block], Block]:
    """Complete blocks of a node by their gaps, measured where they are not known.

    The covariance is computed from a known gap anew, so that it stays within its
    bounds, and chains of layers need not keep both. A measured one tells no more than
    that it is at its bound: much smaller covariances would lose their digits.
    """
    stds, within = deviations(frame, node), tolerance(frame, 0)

    def complete(at: Evaluation, block: Block) -> Block:
        left, right = stds(at)
        size, gap, nngp = left * right, block.gap, block.nngp
        if gap is None:
            gap = measured_gap(nngp, left, right, within(at))
            bounded = jnp.where(gap > 0, nngp, size)
        else:
            bounded = size - gap
        nngp = valued(lax.stop_gradient(bounded), nngp)
        return Block(nngp, block.ntk, gap)

    return complete


def integrated_gap(
    value_of: Callable[[Pair], Float[Array, "*s"]],
    pair: Pair,
    before: tuple[Float[Array, "..."], Float[Array, "..."]],
    after: tuple[Float[Array, "..."], Float[Array, "..."]],
) -> Float[Array, "*s"]:
    r"""The gap of a dual activation that does not tell it, also where it is small.

    With $C$ the dual as a function of the covariance $s s' - g$,

    $$C(s s') - C(s s' - g) = \int_0^1 2 x g\, C'(s s' - x^2 g)\, \mathrm{d}x,$$

    in which nothing is subtracted. Slopes change like the root of a gap where functions
    have kinks, and its inverse at jumps, so that all is smooth in $x$.

    **Arguments:**

    - `value_of`: the dual, $C$.
    - `pair`: the covariance before it, with its gap.
    - `before`, `after`: the deviations of both, before the dual and after it.
    """
    size = before[0] * before[1]
    given = jnp.zeros_like(size) if pair.gap is None else pair.gap
    apart = measured_gap(value_of(Pair(size, jnp.zeros_like(given))), *after, None)

    def part(x: Float[Array, ""]) -> Float[Array, "*s"]:
        gap = x * x * given
        value_at = lambda cov: value_of(Pair(cov, gap))
        return jax.jvp(value_at, (size - gap,), (2 * x * given,))[1]

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    parts = jax.vmap(part)(jnp.asarray(0.5 + 0.5 * nodes, size.dtype))
    near = apart + jnp.tensordot(jnp.asarray(0.5 * weights, size.dtype), parts, 1)
    far = measured_gap(value_of(pair), *after, None)
    # Jumps part inputs that nearly coincide by far more than any slope, so that
    # subtracting loses nothing. Slopes within rounding count as zero there.
    small = given < jnp.finfo(size.dtype).eps ** (1 / 6) * size
    small &= far <= _BY_SLOPE * given
    return lax.stop_gradient(jnp.where(small, near, far))


def tolerance(frame: Frame, rank: int) -> Lookup[Array | None]:
    """Register how small `1 - |correlation|` may be and still be rounding (`Pair`).

    One example at one position is one Gaussian, whatever the rounding.
    """
    identical = np.ones(1, bool) if frame.self_pairs else frame.scope.identical
    if identical is None:
        return lambda at: None
    axes = 1 if frame.joined else rank

    def limit(coincide: Bool[Array, ""] | bool) -> Float[Array, "..."]:
        one = identical.reshape(*identical.shape, *(1,) * axes) & coincide
        return jnp.where(one, OF_ONE, rounding(frame.scope.dtype))

    if frame.canvas is None:
        return lambda at: limit(True)
    key = ("tolerance", frame.self_pairs, rank)
    return frame.mask(key, lambda here: limit(jnp.all(here == 0)))
