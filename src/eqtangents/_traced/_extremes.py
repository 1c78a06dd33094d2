"""The rule of maxima and minima over an axis."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.extend import core

from eqtangents._traced._builder import Builder
from eqtangents._traced._picked import selected_along
from eqtangents._traced._rules import reading
from eqtangents._traced._sums import joined_extreme
from eqtangents._traced._values import RandomValue, Unreadable


@reading("reduce_max", "reduce_min")
def _extreme_over(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[Any]:
    """Over an axis of two entries, the larger or smaller of both."""
    signal, axes = builder.settled(args[0]), [int(a) for a in eqn.params["axes"]]
    long = [axis for axis in axes if signal.shape[axis] > 1]
    if len(long) != 1 or signal.shape[long[0]] != 2:
        raise Unreadable(
            "takes maxima over axes, but the covariance of the largest is known of two "
            "independent ones alone. Take the mean over positions, or sums, instead of "
            "the maximum. A softmax is read as attention where scores are products of "
            "queries and keys; over few outputs, as of a router or of a layer with one "
            "channel, it stays random however wide the model is."
        )
    parts = [
        selected_along(builder, signal, long[0], np.asarray([i])) for i in range(2)
    ]
    name = eqn.primitive.name.removeprefix("reduce_")
    joined = joined_extreme(builder, name, *parts)
    rest = [axis for i, axis in enumerate(joined.layout.axes) if i not in axes]
    return [RandomValue(joined.layout.with_axes(rest), joined.terms)]
