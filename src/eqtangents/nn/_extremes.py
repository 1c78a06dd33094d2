"""The larger and the smaller of two branches."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from eqtangents.covariance import AbstractCovariance, Nonlinear
from eqtangents.duals import ReluDual
from eqtangents.nn._branches import combined, sum_of
from eqtangents.nn._inputs import SignalT
from eqtangents.nn._layer import (
    AbstractLayer,
    AbstractParameterless,
    Covariances,
    LayerError,
    check_not_vanishing,
    many_inputs,
)


class FanInMax(AbstractParameterless):
    r"""The larger of two branches, at each entry, as in a maxout network.

    The kernels are those of a `Relu` of their sum. For
    $\max(a, b) = \tfrac12 (a + b) + \tfrac12 |a - b|$. Both parts are uncorrelated, as
    the signs of $a$ and $b$ may change together, and $a + b$ and $a - b$ have one
    covariance, $K_a + K_b$. The gradient is that of one branch on half of the plane:

    $$K' = \mathbb{E} \max(u, 0) \max(v, 0), \qquad
    T' = (T_a + T_b)\, \mathbb{E}\, 1_{u > 0} 1_{v > 0}$$

    with $(u, v)$ of the covariance $K_a + K_b$. Both branches must end in weights of
    their own.

    **Source:** Goodfellow et al. 2013, arXiv:1302.4389 (maxout); Cho & Saul 2009, eq. 1
    to 6, for both expectations.
    """

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Sequence[SignalT], *, key: PRNGKeyArray | None = None
    ) -> SignalT:
        return combined(self, x, jnp.maximum)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        return _extreme_of(self, covariance)


class FanInMin(AbstractParameterless):
    r"""The smaller of two branches, at each entry.

    As $\min(a, b) = -\max(-a, -b)$, its kernels are those of `FanInMax`, which says
    what the branches must be.
    """

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Sequence[SignalT], *, key: PRNGKeyArray | None = None
    ) -> SignalT:
        return combined(self, x, jnp.minimum)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        return _extreme_of(self, covariance)


def _extreme_of(layer: AbstractLayer, covariance: Covariances) -> AbstractCovariance:
    branches = many_inputs(layer, covariance)
    if len(branches) != 2:
        raise LayerError(
            layer,
            f"compares {len(branches)} branches, but the covariance of the larger or "
            "smaller is known of two. Leave two, or take their sum.",
        )
    for branch in branches:
        check_not_vanishing(layer, branch)
    joined = sum_of(layer, branches)
    if not joined.outline.gaussian or joined.outline.has_trained_gains:
        raise LayerError(
            layer,
            "compares branches of which one is not Gaussian, or has trained gains: "
            "nothing with weights stands between it and a nonlinearity, a product, the "
            "input or a normalisation with gains. Both must end in weights of their "
            "own: put a `Linear` or `Conv` at their ends.",
        )
    return Nonlinear(joined, ReluDual(0.0, 1.0))
