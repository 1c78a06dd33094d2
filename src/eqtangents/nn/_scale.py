"""A constant factor."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance import AbstractCovariance, Scaled, mapped_examples
from eqtangents.nn._inputs import Extras
from eqtangents.nn._layer import AbstractUnary


class Scale(AbstractUnary):
    r"""The input times a number: $K' = c^2 K$ and $T' = c^2 T$.

    It is linear, and what was Gaussian stays so. A factor given as an array is a
    hyperparameter, which can be differentiated.
    """

    factor: Scalar

    def __init__(self, factor: Scalar):
        """Set the number $c$."""
        self.factor = factor

    def apply(
        self, value: Float[Array, "channels *size"], extras: Extras
    ) -> Float[Array, "channels *size"]:
        return jnp.asarray(self.factor, value.dtype) * value

    def push(self, covariance: AbstractCovariance) -> AbstractCovariance:
        if covariance.examples is not None:
            times = lambda x: jnp.asarray(self.factor, x.dtype) * x
            return mapped_examples(covariance, times)
        return Scaled(covariance, self.factor)
