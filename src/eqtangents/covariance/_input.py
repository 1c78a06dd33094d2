"""Covariance of the inputs themselves."""

import functools
import math
import operator
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from eqtangents._products import einsum
from eqtangents._transposed import broadcast_along
from eqtangents.covariance._block import Block, BlockRule, Evaluation
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame
from eqtangents.covariance._gaps import deviations, tracks_gaps, with_gaps
from eqtangents.covariance._outline import Outline, new_source
from eqtangents.duals._dual import Stacked, in_terms
from eqtangents.duals._elementary import reciprocal


class InputCovariance(AbstractCovariance):
    r"""Inner products of inputs, $K(x, x')_{pp'} = \frac{1}{C} x_p \cdot x'_{p'}$."""

    examples: Float[Array, "n channels *size"]
    in_buffers = True

    def __init__(
        self,
        examples: Float[Array, "n channels *size"],
        *,
        mask: Bool[Array, "n *size"] | None = None,
        graph: PyTree[Array] = None,
        sources: frozenset[int] | None = None,
    ):
        """Hold the examples of both batches in a row, zero where they are masked.

        `sources`: the sources of the input that the examples are a function of, if any.
        """
        channels, *size = examples.shape[1:]
        if mask is not None:
            examples = jnp.where(mask[:, None], examples, jnp.zeros_like(examples))
        self.examples = examples
        self.outline = Outline(
            size=tuple(size),
            canvas=tuple(size),
            fixed_canvas=(False,) * len(size),
            channels=channels,
            gaussian=False,
            sources=new_source() if sources is None else sources,
            centred_by=(),
            trainable=False,
            mask=mask,
            graph=graph,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Multiply and sum over channels, in full precision on every device."""
        outline = self.outline
        one_by_one = outline.rank > 0 and outline.channels <= _FEW_FACTORS
        channels_first = lambda: Stacked(jnp.moveaxis(self.examples, 1, 0))
        arrays = channels_first() if one_by_one else self.examples
        examples = frame.per_example(arrays, outline.rank, 0.0)
        product = _added_products if one_by_one else _matrix_product

        def products(at: Evaluation) -> Block:
            total = product(frame, *examples(at))
            return Block(total / outline.channels, None)

        if not tracks_gaps(frame, self):
            return products
        complete, stds = with_gaps(frame, self), deviations(frame, self)

        def with_gap(at: Evaluation) -> Block:
            block = products(at)
            if 1 < self.outline.channels <= _FEW_CHANNELS:
                left, right = examples(at)
                gap = _gap_of_few(left, right, *stds(at))
                block = block._replace(gap=gap)
            return complete(at, block)

        return with_gap


def mapped_examples(
    covariance: AbstractCovariance,
    function: Callable[[Float[Array, "..."]], Float[Array, "..."]],
) -> InputCovariance:
    """The covariance of a known function of known examples."""
    assert covariance.examples is not None, "only inputs are known"
    outline = covariance.outline
    return InputCovariance(
        function(covariance.examples),
        mask=outline.mask,
        graph=outline.graph,
        sources=outline.sources,
    )


def flattened_examples(covariance: AbstractCovariance) -> InputCovariance:
    """The covariance of known examples whose positions became channels."""
    assert covariance.examples is not None, "only inputs are known"
    outline = covariance.outline.without_positions()
    channels = covariance.outline.channels * math.prod(covariance.outline.size)
    return InputCovariance(
        covariance.examples.reshape(-1, channels),
        mask=outline.mask,
        graph=outline.graph,
        sources=outline.sources,
    )


# With so few channels, that matrices of all positions are arranged for a product costs
# more than it does.
_FEW_FACTORS = 8


def _added_products(
    frame: Frame, left: Stacked, right: Stacked
) -> Float[Array, "*pairs_and_canvas"]:
    """The inner products over channels, a channel after the other."""
    factors = in_terms((left, right))
    if not frame.self_pairs:
        scope = frame.scope
        left, right = factors
        factors = (
            [broadcast_along(factor, 1, scope.n2) for factor in left],
            [broadcast_along(factor, 0, scope.n1) for factor in right],
        )
    return functools.reduce(operator.add, map(operator.mul, *factors))


def _matrix_product(
    frame: Frame, left: Float[Array, "..."], right: Float[Array, "..."]
) -> Float[Array, "*pairs_and_canvas"]:
    """The inner products over channels, for each position a product of matrices."""
    if frame.self_pairs:
        return jnp.sum(left * right, 1)
    return einsum("ic...,jc...->ij...", left[:, 0], right[0])


# With so many channels, their differences cost about as much as a layer. A single
# channel has but two directions, and its products and deviations are rounded alike.
_FEW_CHANNELS = 16


def _gap_of_few(
    left: Float[Array, "n1 1 channels"],
    right: Float[Array, "1 n2 channels"],
    left_std: Float[Array, "n1 1"],
    right_std: Float[Array, "1 n2"],
) -> Float[Array, "n1 n2"]:
    r"""`s s' - k`, from differences of directions.

    $\frac{s s'}{2} |x / s - x' / s'|^2$, with the mean over channels as norm, keeps its
    digits where inputs are close together.
    """
    ends = (left, left_std), (right, right_std)
    one, other = (x * reciprocal(std)[..., None] for x, std in ends)
    gap = 0.5 * jnp.mean((one - other) ** 2, -1) * (left_std * right_std)
    return lax.stop_gradient(gap)
