"""Duals by formulas of the covariance and the variances."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents.duals._dual import AbstractDual
from eqtangents.duals._elementary import may_be_differentiated
from eqtangents.duals._pair import Moments, Pair


class GivenDual(AbstractDual):
    r"""Dual by functions of the covariance and the two variances.

    `value(cov, var1, var2)` is $E f f$ and `derivative(cov, var1, var2)` is $E f' f'$,
    for arrays of one shape. Without `derivative`, the latter is the derivative of the
    former in the covariance.
    """

    value: Callable
    derivative: Callable | None = None

    def prepare(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return variance

    def moments(
        self, pair: Pair, left: Float[Array, "..."], right: Float[Array, "..."]
    ) -> Moments:
        cov = pair.cov
        left, right = (jnp.broadcast_to(v, cov.shape) for v in (left, right))
        if self.derivative is not None:
            value = self.value(cov, left, right)
            return Moments(value, self.derivative(cov, left, right))
        one = jnp.ones_like(cov)
        with may_be_differentiated(True):
            both = jax.jvp(lambda k: self.value(k, left, right), (cov,), (one,))
        return Moments(*both)

    def diagonal(self, variance: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return self.value(variance, variance, variance)
