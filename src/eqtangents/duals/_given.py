"""Duals that a user gives."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents.duals._dual import AbstractDual
from eqtangents.duals._pair import Moments, Pair


class GivenDual(AbstractDual):
    """Expectations by functions of the covariance and the two variances.

    Without `derivative`, `E[f'(u) f'(v)]` is the derivative of `value` in the
    covariance.
    """

    value: Callable
    derivative: Callable | None

    def prepare(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The variance."""
        return variance

    def moments(
        self, pair: Pair, left: Float[Array, "..."], right: Float[Array, "..."]
    ) -> Moments:
        """Call the functions on arrays of one shape."""
        cov = pair.cov
        left, right = (jnp.broadcast_to(v, cov.shape) for v in (left, right))
        if self.derivative is not None:
            value = self.value(cov, left, right)
            return Moments(value, self.derivative(cov, left, right))
        one = jnp.ones_like(cov)
        return Moments(*jax.jvp(lambda k: self.value(k, left, right), (cov,), (one,)))

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The value at equal inputs."""
        return self.value(variance, variance, variance)
