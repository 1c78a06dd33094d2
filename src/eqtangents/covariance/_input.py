"""Covariance of the inputs themselves."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Block,
    BlockRule,
    Evaluation,
    Frame,
)
from eqtangents.covariance._gaps import deviations, tracks_gaps, with_gaps
from eqtangents.covariance._outline import Outline, new_source
from eqtangents.duals._elementary import reciprocal


class InputCovariance(AbstractCovariance):
    r"""Inner products of inputs, $K(x, x')_{pp'} = \frac{1}{C} x_p \cdot x'_{p'}$."""

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
            centred=False,
            trainable=False,
            mask=mask,
            graph=graph,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Multiply and sum over channels, in full precision on every device."""
        examples = frame.per_example(self.examples, self.outline.rank, 0.0)

        def products(at: Evaluation) -> Block:
            left, right = examples(at)
            if frame.self_pairs:
                products = jnp.sum(left * right, 1)
            else:
                products = jnp.einsum(
                    "ic...,jc...->ij...", left[:, 0], right[0], precision="highest"
                )
            return Block(products / self.outline.channels, None)

        if not tracks_gaps(frame, self):
            return products
        complete, stds = with_gaps(frame, self), deviations(frame, self)

        def with_gap(at: Evaluation) -> Block:
            block = products(at)
            if 1 < self.outline.channels <= _FEW_CHANNELS:
                block = block._replace(gap=_gap_of_few(*examples(at), *stds(at)))
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
