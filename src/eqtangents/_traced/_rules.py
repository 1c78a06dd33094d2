"""Rules of primitives: what each does to a network of infinite width."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from jax.extend import core

from eqtangents._traced._builder import Builder


# From a builder, an equation and the values of its arguments to those of its results.
ReadingRule: TypeAlias = Callable[[Builder, core.JaxprEqn, Sequence[Any]], list[Any]]

SIGNAL_RULES: dict[str, ReadingRule] = {}


def reading(*names: str) -> Callable[[ReadingRule], ReadingRule]:
    """Register the rule of primitives for signals, by their names."""

    def register(rule: ReadingRule) -> ReadingRule:
        SIGNAL_RULES.update(dict.fromkeys(names, rule))
        return rule

    return register
