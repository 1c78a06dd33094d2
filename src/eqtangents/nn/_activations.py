"""The abstract class of all nonlinearities."""

import abc

from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents.covariance import (
    AbstractCovariance,
    Nonlinear,
    Scaled,
    TrainedGains,
    mapped_examples,
)
from eqtangents.duals import AbstractDual, LinearDual
from eqtangents.duals._fitted import TimesSlope, dual_of
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
    Gaussian $(u, v)$ with the covariances of the input. The input of the network is no
    random variable: to it, the function is applied as it is. A function whose
    dual is a `LinearDual` is linear: as a `Scale`, it needs no Gaussian input and keeps
    what is Gaussian so.

    A subclass gives `dual` and `function`, which must agree: `testing.check_dual` tries
    that. The rest is here.
    """

    @property
    @abc.abstractmethod
    def dual(self) -> AbstractDual:
        """The two Gaussian expectations."""

    @abc.abstractmethod
    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The function itself, entry by entry."""

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        return extras.rewrap(self.function(value), extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        if covariance.examples is not None:
            return mapped_examples(covariance, self.function)
        check_not_vanishing(self, covariance)
        dual = self.dual
        if isinstance(dual, LinearDual):
            return Scaled(covariance, dual.slope)
        if not covariance.outline.gaussian:
            raise LayerError(
                self,
                "needs a Gaussian input for its kernel (or the input of the "
                "network), but nothing with weights stands between it and another "
                "nonlinearity, a `Flatten`, a pooled or joined input, a product or a "
                "concatenation of channels. Put a `Linear` or `Conv` before it.",
            )
        # This asks which rule comes right before, not for a fact of the outline: the
        # kernel is known only where gains act on the input of the function itself.
        gained = covariance.outline.has_trained_gains
        if not gained:
            return Nonlinear(covariance, dual)
        if (
            not isinstance(covariance, TrainedGains)
            or covariance.upstream.outline.has_trained_gains
        ):
            raise LayerError(
                self,
                "follows trained gains of a normalisation, but not at once, so that "
                "their part of the tangent kernel is not known. Put a `Linear` or "
                "`Conv` between the two, or use `use_weight=False`.",
            )
        gain_dual = None if dual.homogeneous else dual_of(TimesSlope(self.function))
        return Nonlinear(covariance, dual, gain_dual)
