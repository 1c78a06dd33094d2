"""Covariance of the inputs themselves."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Outline,
    new_source,
)
from eqtangents.covariance._frame import Block, Evaluation, Frame, Rule


class Input(AbstractCovariance):
    r"""Inner products of inputs, $K(x, x')_{pp'} = \frac{1}{C} x_p \cdot x'_{p'}$."""

    def __init__(self, examples: Float[Array, "n channels *size"]):
        """Hold the examples of both batches in a row."""
        channels, *size = examples.shape[1:]
        self.examples = examples
        self.outline = Outline(
            size=tuple(size),
            canvas=tuple(size),
            rigid=(False,) * len(size),
            channels=channels,
            gaussian=False,
            sources=new_source(),
            centred=False,
            trainable=False,
        )

    def bind(self, frame: Frame) -> Rule:
        """Multiply and sum over channels, in full precision on every device."""
        rank, channels = self.outline.rank, self.outline.channels
        if frame.same:
            handle = frame.ends(self.examples, rank, 0.0)

            def rule(at: Evaluation) -> Block:
                left, right = at.fields[handle]
                return Block(jnp.sum(left * right, 1) / channels, None)

            return rule

        handle = frame.ends(self.examples, rank, 0.0)

        def cross_rule(at: Evaluation) -> Block:
            left, right = at.fields[handle]
            products = jnp.einsum(
                "ic...,jc...->ij...", left[:, 0], right[0], precision="highest"
            )
            return Block(products / channels, None)

        return cross_rule
