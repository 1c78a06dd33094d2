"""What nonlinearities share."""

import abc

from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents.covariance import (
    AbstractCovariance,
    Input,
    Nonlinear,
    Scaled,
    TrainedGains,
)
from eqtangents.duals import AbstractDual, ReluDual
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    LayerError,
    check_not_vanishing,
    one_input,
)


class AbstractActivation(AbstractParameterless):
    r"""A function of each channel at each position.

    $K' = \mathbb{E}\, f(u) f(v)$ and $T' = T\; \mathbb{E}\, f'(u) f'(v)$ for centred
    Gaussian $(u, v)$ whose covariances are those of the input. The input of the network
    is no random variable: to it, the function is applied as it is. A function that is a
    line through zero, by slopes that are equal Python numbers, is linear: as a `Scale`,
    it needs no Gaussian input and keeps what is Gaussian so.
    """

    @property
    @abc.abstractmethod
    def dual(self) -> AbstractDual:
        """The two Gaussian expectations."""

    @abc.abstractmethod
    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The function itself, entry by entry."""

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        """Apply to one example."""
        value, extras = unwrap(x)
        return extras.rewrap(self.function(value), extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Apply the dual, if the input is Gaussian."""
        covariance = one_input(self, covariance)
        if isinstance(covariance, Input):
            return covariance.mapped(self.function)
        check_not_vanishing(self, covariance)
        dual = self.dual
        slope = _slope_of_line(dual)
        if slope is not None:
            return Scaled(covariance, slope)
        if not covariance.outline.gaussian:
            raise LayerError(
                self,
                "needs a Gaussian input for its kernel (or that of the network "
                "itself), but nothing with weights stands between it and another "
                "nonlinearity, a `Flatten`, a pooled or joined input, a product or a "
                "concatenation of channels. Put a `Linear` or `Conv` before it.",
            )
        if covariance.outline.has_trained_gains and not (
            isinstance(covariance, TrainedGains)
            and not covariance.upstream.outline.has_trained_gains
            and isinstance(dual, ReluDual)
        ):
            raise LayerError(
                self,
                "follows a normalisation with trained gains, whose tangent kernel is "
                "known only for rectifiers right after it. Put a `Linear` or `Conv` "
                "between the two, or use `use_weight=False`.",
            )
        return Nonlinear(covariance, dual)


def _slope_of_line(dual: AbstractDual) -> float | None:
    """The slope of a function that is known to be a line through zero."""
    if not isinstance(dual, ReluDual):
        return None
    below, above = dual.negative_slope, dual.positive_slope
    concrete = isinstance(below, float | int) and isinstance(above, float | int)
    return float(below) if concrete and below == above else None
