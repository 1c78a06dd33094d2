"""Layers that change nothing but shapes."""

from typing import Any, overload

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from eqtangents.covariance import (
    AbstractCovariance,
    Flattened,
    flattened_examples,
)
from eqtangents.nn._inputs import Signal, cleared, read_out, unwrap
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    Example,
    Output,
    one_input,
)


class Identity(AbstractParameterless):
    """The input itself."""

    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Output: ...
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Any:
        return cleared(x)

    def propagate(self, covariance: Covariances) -> Covariances:
        return covariance


class Flatten(AbstractParameterless):
    r"""Positions become channels, $K' = \frac{1}{P} \sum_p K_{pp}$ and $T'$ alike.

    Only covariances of coinciding positions are ever computed, by any layer before.
    """

    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Signal, *, key: PRNGKeyArray | None = None) -> Signal: ...
    def __call__(self, x: Signal, *, key: PRNGKeyArray | None = None) -> Signal:
        value, extras = unwrap(x)
        return read_out(jnp.ravel(value), extras)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        if covariance.examples is not None:
            return flattened_examples(covariance)
        return Flattened(covariance)
