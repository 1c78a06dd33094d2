"""One block of a network, as a map of the second moments of a few channels."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._arguments import described
from eqtangents.covariance import (
    AbstractCovariance,
    Block,
    Frame,
    Scope,
)
from eqtangents.covariance._block import BlockRule
from eqtangents.covariance._outline import Outline, new_source
from eqtangents.duals._elementary import valued
from eqtangents.duals._pair import deviation, measured_gap
from eqtangents.nn import AbstractLayer
from eqtangents.nn._layer import LayerError, instead_of_layer


class SecondMoments(eqx.Module):
    """Second moments of one channel for two inputs, at each position.

    `gap` is how far the covariance stays below the product of the standard deviations.
    It is known to more digits than their difference, and carries no derivative.
    """

    variance1: Float[Array, "*size"]
    variance2: Float[Array, "*size"]
    covariance: Float[Array, "*size"]
    gap: Float[Array, "*size"]

    @classmethod
    def equal(cls, q: Float[Array, "*size"]) -> "SecondMoments":
        """The moments of one input with itself."""
        return cls(q, q, q, jnp.zeros_like(q))

    @classmethod
    def correlated(
        cls,
        q1: Float[Array, "*size"],
        q2: Float[Array, "*size"],
        deficit: Float[Array, "*size"],
    ) -> "SecondMoments":
        """The moments for two variances, and a correlation of one less `deficit`."""
        scale = deviation(q1).std * deviation(q2).std
        gap = lax.stop_gradient(scale * deficit)
        return cls(q1, q2, scale * (1 - deficit), gap)

    def with_covariance(self, covariance: Float[Array, "*size"]) -> "SecondMoments":
        """The moments with another covariance, as its derivatives are taken of."""
        return eqx.tree_at(lambda moments: moments.covariance, self, covariance)

    @property
    def deficit(self) -> Float[Array, "*size"]:
        """One less the correlation; a signal of zero is correlated with none."""
        first, second = deviation(self.variance1), deviation(self.variance2)
        scale = first.reciprocal * second.reciprocal
        value = jnp.where(scale == 0, jnp.ones_like(scale), self.gap * scale)
        return valued(lax.stop_gradient(value), 1 - self.covariance * scale)


class _Given(AbstractCovariance):
    """Gaussian channels of given second moments, where positions coincide."""

    def __init__(self, moments: SecondMoments):
        """Stand for infinitely many channels with these moments."""
        self.moments = moments
        size, source = moments.covariance.shape, new_source()
        self.outline = Outline(
            size=size,
            canvas=size,
            fixed_canvas=(False,) * len(size),
            channels=1,
            gaussian=True,
            sources=source,
            centred_by=(source,),
            trainable=False,
            exchangeable=True,
        )

    def bind(self, frame: Frame) -> BlockRule:
        if frame.canvas is not None:
            raise _MixesPositions
        given = self.moments
        if frame.self_pairs:
            block = Block(jnp.stack([given.variance1, given.variance2]), None)
        else:
            block = Block(given.covariance[None, None], None, given.gap[None, None])
        return frame.constant(block)


class _PreciseScope(Scope):
    """One pair of signals, for which gaps may take their time."""

    integrates_gaps = True


class _MixesPositions(Exception):
    """A block asks for covariances between different positions."""


def checked_block(block: Any, size: Any) -> AbstractLayer:
    """The block, if it maps signals of some positions to such.

    **Raises:** `TypeError` if it is no layer, `LayerError` if it does not.
    """
    if not isinstance(block, AbstractLayer):
        raise TypeError(
            f"`block` is {described(block)}, but must be a layer that can follow "
            "itself: `nn.Sequential([nn.Tanh(), nn.Linear(1, weight_std=1.5)])`, say. "
            f"{instead_of_layer(block)}"
        )
    one = jnp.ones(size)
    eqx.filter_eval_shape(after_block, block, SecondMoments.equal(one))
    return block


@eqx.filter_jit  # So that it is traced once, however often it is asked for.
def after_block(block: AbstractLayer, moments: SecondMoments) -> SecondMoments:
    """The moments after a block, for inputs that are Gaussian with given ones.

    **Raises:** `LayerError` if the block changes the positions, or makes several
    outputs, or sums over different positions.
    """
    given = _Given(moments)
    dtype = moments.covariance.dtype
    scope = _PreciseScope(1, 1, jnp.zeros((), dtype), wants_ntk=False)
    node = block.propagate(given)
    if not isinstance(node, AbstractCovariance):
        raise LayerError(
            block, "makes several outputs, but must follow itself. Join its branches."
        )
    if node.outline.size != given.outline.size:
        raise LayerError(
            block,
            f"turns positions {given.outline.size} into {node.outline.size}, but must "
            "follow itself. Choose strides of 1 and a padding that keeps the size.",
        )
    try:
        variance = scope.variance(node)
        between = scope.coincident(node, self_pairs=False)
    except _MixesPositions:
        raise LayerError(
            block,
            "sums over different positions, as pooling and attention do. Its moments "
            "do not follow from those at coinciding positions alone.",
        ) from None
    covariance, gap = between.nngp[0, 0], between.gap
    if gap is None:
        stds = deviation(variance).std
        gap = measured_gap(covariance, stds[0], stds[1], None)
    else:
        gap = gap[0, 0]
    return SecondMoments(variance[0], variance[1], covariance, gap)
