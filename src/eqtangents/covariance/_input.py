"""Covariance of the inputs themselves."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Outline,
    new_source,
)
from eqtangents.covariance._frame import Block, BlockRule, Evaluation, Frame
from eqtangents.duals._elementary import reciprocal


class Input(AbstractCovariance):
    r"""Inner products of inputs, $K(x, x')_{pp'} = \frac{1}{C} x_p \cdot x'_{p'}$."""

    def __init__(
        self,
        examples: Float[Array, "n channels *size"],
        *,
        mask: Bool[Array, "n *size"] | None = None,
        graph: PyTree[Array] = None,
    ):
        """Hold the examples of both batches in a row, zero where they are masked."""
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
            sources=new_source(),
            centred=False,
            trainable=False,
            mask=mask,
            graph=graph,
        )

    def mapped(
        self, function: Callable[[Float[Array, "..."]], Float[Array, "..."]]
    ) -> "Input":
        """The covariance of a known function of the same input's examples."""
        mapped = Input(
            function(self.examples), mask=self.outline.mask, graph=self.outline.graph
        )
        mapped.outline = mapped.outline.replace(sources=self.outline.sources)
        return mapped

    def bind(self, frame: Frame) -> BlockRule:
        """Multiply and sum over channels, in full precision on every device."""
        handle = frame.per_example(self.examples, self.outline.rank, 0.0)

        def products(at: Evaluation) -> Block:
            left, right = at.fields[handle]
            if frame.same:
                products = jnp.sum(left * right, 1)
            else:
                products = jnp.einsum(
                    "ic...,jc...->ij...", left[:, 0], right[0], precision="highest"
                )
            return Block(products / self.outline.channels, None)

        if not frame.tracks_gaps(self):
            return products
        complete, deviations = frame.with_gaps(self), frame.deviations(self)

        def with_gap(at: Evaluation) -> Block:
            block = products(at)
            if 1 < self.outline.channels <= _FEW_CHANNELS:
                gap = _gap_of_few(*at.fields[handle], *at.fields[deviations])
                block = block._replace(gap=gap)
            return complete(at, block)

        return with_gap


# So many differences cost about as much as a layer. A single channel is one of two
# directions, so that products and deviations are rounded alike.
_FEW_CHANNELS = 16


def _gap_of_few(
    left: Float[Array, "n1 1 channels"],
    right: Float[Array, "1 n2 channels"],
    left_std: Float[Array, "n1 1"],
    right_std: Float[Array, "1 n2"],
) -> Float[Array, "n1 n2"]:
    r"""`s s' - k`, by differences of directions, whose digits near inputs keep.

    $\frac{s s'}{2} |x / s - x' / s'|^2$, with the mean over channels as norm.
    """
    ends = (left, left_std), (right, right_std)
    one, other = (x * reciprocal(std)[..., None] for x, std in ends)
    gap = 0.5 * jnp.mean((one - other) ** 2, -1) * (left_std * right_std)
    return lax.stop_gradient(gap)
