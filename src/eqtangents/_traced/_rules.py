"""Rules of primitives: what each does to a network of infinite width."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from jax.extend import core

from eqtangents._traced._builder import Builder


# From a builder, an equation and the values of its arguments to those of its results.
ReadingRule: TypeAlias = Callable[[Builder, core.JaxprEqn, Sequence[Any]], list[Any]]

SIGNAL_RULES: dict[str, ReadingRule] = {}

# Primitives that map each entry by itself, by name: what they are called is stable,
# where they are found is not.
OF_ENTRIES = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp "
    "convert_element_type copy copy_p cos cosh custom_jvp_call custom_vjp_call digamma "
    "div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le "
    "lgamma log log1p logistic lt max min mul ne neg nextafter not or polygamma pow "
    "reduce_precision rem round rsqrt select_n sign sin sinh sqrt square "
    "stop_gradient sub tan tanh xor".split()
)


def reading(*names: str) -> Callable[[ReadingRule], ReadingRule]:
    """Register the rule of primitives for signals, by their names."""

    def register(rule: ReadingRule) -> ReadingRule:
        SIGNAL_RULES.update(dict.fromkeys(names, rule))
        return rule

    return register
