"""Networks from their first layer to the last, without recursion."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar


Place = TypeVar("Place", bound=Hashable)


def first_to_last(
    last: Place, above: Callable[[Place], Iterable[Place]]
) -> list[Place]:
    """All that leads to `last`, which is the last: each after those that are above it.

    Branches come one after the other, so that those just before an entry are mostly
    what it comes from.
    """
    order: list[Place] = []
    seen: set[Place] = set()
    left = [(last, False)]
    while left:
        place, complete = left.pop()
        if complete:
            order.append(place)
        elif place not in seen:
            seen.add(place)
            left.append((place, True))
            left.extend((one, False) for one in above(place))
    return order
