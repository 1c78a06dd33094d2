"""Dropout."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

from eqtangents._types import Probability
from eqtangents.covariance import AbstractCovariance, DroppedOut
from eqtangents.nn._inputs import SignalT, cleared, unwrap
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    LayerError,
    one_input,
)


class Dropout(AbstractParameterless):
    r"""Set each value to zero with probability $p$, and divide the others by $1 - p$.

    Kernels of an example with itself at one position are divided by $1 - p$, all
    others stay: in `eqtangents.kernel(net, x)` each example passes through the network
    once, in `eqtangents.kernel(net, x1, x2)` the two batches do so apart. With
    `inference` (set by `eqx.nn.inference_mode(net)`) nothing is dropped.

    **Source:** Srivastava et al. 2014; Novak et al. 2020, arXiv:1912.02803.
    """

    p: Probability = eqx.field(static=True)
    inference: bool

    def __init__(self, p: Probability = 0.5, inference: bool = False):
        """Set the probability of dropping a value."""
        self.p, self.inference = p, inference

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        if self.inference or not self.p:
            return cleared(x)
        if key is None:
            raise LayerError(
                self,
                "drops values at random, but was given no key. Call "
                "`model(x, key=key)`, or `eqx.nn.inference_mode(model)(x)` to drop "
                "none.",
            )
        value, extras = unwrap(x)
        kept = jr.bernoulli(key, 1 - self.p, value.shape)
        value = jnp.where(kept, value / (1 - self.p), jnp.zeros_like(value))
        return extras.rewrap(value, extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Divide the kernels of each value with itself."""
        covariance = one_input(self, covariance)
        if self.inference or not self.p:
            return covariance
        return DroppedOut(covariance, 1 - self.p)
