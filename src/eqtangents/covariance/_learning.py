"""Learning rates of parameters, as rules for tangent kernels ask for them."""

import equinox as eqx

from eqtangents._types import Scalar
from eqtangents.covariance._block import Evaluation, Lookup
from eqtangents.covariance._frame import Frame


def may_train(rate: Scalar) -> bool:
    """Whether parameters add anything to the tangent kernel, as far as is known."""
    return eqx.is_array(rate) or bool(rate != 0)


def learning_rates(frame: Frame, *rates: Scalar) -> Lookup[tuple[Scalar, ...]]:
    """Register rates with a frame: arrays may be of one depth of a `Repeat`."""
    arrays = [rate for rate in rates if eqx.is_array(rate)]
    if not arrays:
        return lambda at: rates
    registered = frame.constant(arrays)

    def found(at: Evaluation) -> tuple[Scalar, ...]:
        given = iter(registered(at))
        return tuple(next(given) if eqx.is_array(rate) else rate for rate in rates)

    return found
