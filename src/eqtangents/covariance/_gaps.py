"""Gaps of covariances to the products of deviations, where positions play no part.

Between inputs of deep networks the gap `s s' - k` is far below the rounding of `k`, so
rules pass it on beside the covariance (`eqtangents.duals._pair` says why).
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Block,
    Evaluation,
    Frame,
    Lookup,
)
from eqtangents.duals._elementary import valued
from eqtangents.duals._pair import OF_ONE, deviation, measured_gap, rounding


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

    The covariance is computed from the gap anew, so that it stays within its bounds,
    and chains of layers need not keep both.
    """
    stds, within = deviations(frame, node), tolerance(frame, 0)

    def complete(at: Evaluation, block: Block) -> Block:
        left, right = stds(at)
        gap = block.gap
        if gap is None:
            gap = measured_gap(block.nngp, left, right, within(at))
        nngp = valued(lax.stop_gradient(left * right - gap), block.nngp)
        return Block(nngp, block.ntk, gap)

    return complete


def tolerance(frame: Frame, rank: int) -> Lookup[Array | None]:
    """Register how small `1 - |correlation|` may be and still be rounding (`Pair`).

    One example at one position is one Gaussian, whatever the rounding.
    """
    identical = np.ones(1, bool) if frame.self_pairs else frame.scope.identical
    if identical is None:
        return lambda at: None

    def limit(coincide: Bool[Array, ""] | bool) -> Float[Array, "..."]:
        one = identical.reshape(*identical.shape, *(1,) * rank) & coincide
        return jnp.where(one, OF_ONE, rounding(frame.scope.dtype))

    if frame.canvas is None:
        return lambda at: limit(True)
    key = ("tolerance", frame.self_pairs, rank)
    return frame.mask(key, lambda here: limit(jnp.all(here == 0)))
