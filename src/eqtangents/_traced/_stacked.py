"""Products with stacked weights, as of the members of an ensemble."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

from eqtangents._traced._builder import Builder
from eqtangents._traced._picked import MOST_LAYERS, entry_along
from eqtangents._traced._rules import ReadingRule
from eqtangents._traced._selections import along_new_axis
from eqtangents._traced._values import RandomValue, Unreadable


def products_one_by_one(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any], rule: ReadingRule
) -> RandomValue:
    """A product with other weights for each entry of an axis: a layer for each.

    `rule`: what such a product is without that axis. The results stand one after the
    other, as positions.
    """
    contracted, batched = eqn.params["dimension_numbers"]
    along = [int(axes[0]) for axes in batched]
    count = args[0].shape[along[0]]
    if count > MOST_LAYERS:
        raise Unreadable(
            f"multiplies by other weights at each of {count} places, which would be as "
            f"many layers, of at most {MOST_LAYERS}. Give all positions the same "
            "weights, and groups of channels by a convolution with `groups`."
        )
    numbers = tuple(
        tuple(_axes_without(*pair) for pair in zip(axes, along, strict=True))
        for axes in (contracted, batched)
    )
    one = eqn.replace(params={**eqn.params, "dimension_numbers": numbers})
    parts = []
    for i in range(count):
        pair = zip(args, along, strict=True)
        parts += rule(
            builder, one, [entry_along(builder, a, axis, i) for a, axis in pair]
        )
    return along_new_axis(builder, parts, 0)


def _axes_without(axes: Sequence[int], gone: int) -> tuple[int, ...]:
    return tuple(int(a - (a > gone)) for a in axes if a != gone)
