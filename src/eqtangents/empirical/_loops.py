"""How parameters that enter a loop look inside of it, and then again outside."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtyping import Array

from eqtangents.empirical._views import (
    Argument,
    Dependence,
    Factor,
    Label,
    Part,
    Root,
    Value,
    View,
)


class _Outside(NamedTuple):
    """A part outside of the loop, the label of iterations, and its root inside."""

    part: Part
    lead: Label
    root_inside: Root


class Crossing:
    """The border of one loop, and the parts that have crossed it."""

    def __init__(self, length: int):
        """Take a loop of so many iterations."""
        self._length = length
        self._outside: list[_Outside] = []
        self._roots: dict[Root, Root] = {}

    def enter(
        self, argument: Argument, *, scanned: bool
    ) -> Callable[[Value], Argument]:
        """How to make an argument of one iteration from its value there."""
        if not isinstance(argument, View):
            return lambda value: value
        parts = []
        for part in argument.parts:
            labels = part.labels[1:] if scanned else part.labels
            lead = part.labels[0] if scanned else Label(self._length)
            root = Root(part.root.leaf, labels)
            parts.append(Part(root, labels, entry=len(self._outside)))
            self._outside.append(_Outside(part, lead, root))
        whole = all(part.is_whole for part in argument.parts)
        sole = argument.dependence.sole and whole
        dependence = Dependence(tuple(parts), argument.applied, sole)
        return lambda value: View(value, dependence)

    def leave(self, part: Part, arrays: Sequence[Array]) -> Part:
        """The part over all iterations, given its varying factors, stacked."""
        assert part.entry is not None
        outer, lead, root_inside = self._outside[part.entry]
        if part.root is root_inside:
            root = outer.root
        elif lead in outer.labels:
            # The root was redefined inside: outside, it has the axis of iterations too,
            # and is the same for all uses.
            outside = Root(part.root.leaf, (lead, *part.root.labels))
            root = self._roots.setdefault(part.root, outside)
        else:
            root = part.root
        stacked = iter(arrays)
        factors = [
            factor
            if factor.is_shared
            else Factor(next(stacked), (lead, *factor.labels))
            for factor in part.factors
        ]
        ranges = [rows for rows in part.ranges if rows.label in root.labels]
        return Part(
            root,
            (lead, *part.labels),
            (*outer.factors, *factors),
            (*outer.ranges, *ranges),
            outer.entry,
        )
