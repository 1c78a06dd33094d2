"""A constant factor."""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from eqtangents._types import Scalar
from eqtangents.covariance import AbstractCovariance, Scaled, mapped_examples
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import AbstractParameterless, Covariances, one_input


class Scale(AbstractParameterless):
    r"""The input times a number: $K' = c^2 K$ and $T' = c^2 T$.

    It is linear, and what was Gaussian stays so. A factor given as an array is a
    hyperparameter, which can be differentiated.
    """

    factor: Scalar

    def __init__(self, factor: Scalar):
        """Set the number $c$."""
        self.factor = factor

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        """Apply to one example."""
        value, extras = unwrap(x)
        factor = jnp.asarray(self.factor, value.dtype)
        return extras.rewrap(factor * value, extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Multiply both kernels by the square."""
        covariance = one_input(self, covariance)
        if covariance.examples is not None:
            times = lambda x: jnp.asarray(self.factor, x.dtype) * x
            return mapped_examples(covariance, times)
        return Scaled(covariance, self.factor)
