"""Following parameters through the equations of a program, by rules of primitives.

Only a primitive that makes a value smaller, or that leads to such a thing, needs a
rule: everything else differentiates as JAX does.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import primitives
from jaxtyping import Array

from eqtangents._jaxpr import bind, jaxpr_and_consts
from eqtangents.empirical._views import (
    Argument,
    Dependence,
    Dependences,
    View,
    value_of,
)


StructureRule: TypeAlias = Callable[[core.JaxprEqn, Sequence[Argument]], Dependences]

STRUCTURE_RULES: dict[core.Primitive, StructureRule] = {}
UNAPPLIED_RULES: dict[core.Primitive, StructureRule] = {}

# Their programs are run in place. The memory that a checkpoint saves is dwarfed by the
# cotangents, one for each output, that are needed of every layer at once.
_IN_PLACE = {primitives.jit_p, primitives.closed_call_p, primitives.remat_p}


def inner_program(eqn: core.JaxprEqn) -> tuple[core.Jaxpr, Sequence[Any]] | None:
    """The program of an equation that only calls it, and its constants."""
    if eqn.primitive not in _IN_PLACE:
        return None
    return jaxpr_and_consts(eqn.params.get("jaxpr", eqn.params.get("call_jaxpr")))


def structured(
    *primitives: core.Primitive, unapplied: bool = False
) -> Callable[[StructureRule], StructureRule]:
    """Register how results of primitives depend on parameters, as a decorator.

    ```python
    @structured(lax.neg_p)
    def negative(eqn, args):
        (view,) = args
        return [view.mapped(lambda part: part.times(-1.0))]
    ```

    **Arguments:**

    - `primitives`: the primitives of `jax.lax` or `jax.extend.core.primitives` that the
        rule is for. A later rule replaces an earlier one; a network that has been
        compiled before keeps the rules it had.
    - `unapplied`: whether the rule is asked only for parameters that have not met data,
        so that it may multiply them by data itself. A value that has met data is then
        differentiated in as it stands. A primitive may have a rule of either kind: the
        one for all values is asked first.

    The rule takes an equation, a `jax.extend.core.JaxprEqn`, and its arguments. At
    least one of them is a `View`, a value that is linear in parameters; the others are
    arrays. It returns a `Dependence` for each result. If it returns `None`, the
    arguments are differentiated in as they stand.

    **Source:** Novak et al. 2022, arXiv:2206.08720, for rules of this kind.
    """

    def register(rule: StructureRule) -> StructureRule:
        rules = UNAPPLIED_RULES if unapplied else STRUCTURE_RULES
        rules.update(dict.fromkeys(primitives, rule))
        return rule

    return register


def follow_equation(
    eqn: core.JaxprEqn,
    args: Sequence[Argument],
    tapped: Callable[[Argument], Array],
) -> list[Argument] | None:
    """The results of an equation, with their dependence on parameters.

    **Returns:** `None` if no rule knows it for arguments like these.
    """
    rule = STRUCTURE_RULES.get(eqn.primitive)
    found = None if rule is None else rule(eqn, args)
    if found is None and eqn.primitive in UNAPPLIED_RULES:
        args = [
            tapped(arg) if isinstance(arg, View) and arg.applied else arg
            for arg in args
        ]
        if any(isinstance(arg, View) for arg in args):
            found = UNAPPLIED_RULES[eqn.primitive](eqn, args)
    if found is None:
        return None
    values = bind(eqn, *map(value_of, args))
    return [
        _checked_view(eqn, value, dependence)
        for value, dependence in zip(values, found, strict=True)
    ]


def _checked_view(eqn: core.JaxprEqn, value: Array, dependence: Dependence) -> Argument:
    for part in dependence.parts:
        shape = tuple(label.size for label in part.labels)
        if shape != jnp.shape(value):
            raise ValueError(
                f"The structure rule of `{eqn.primitive.name}` labels a result as of "
                f"shape {shape}, but it has shape {jnp.shape(value)}. `labels` of each "
                "part must name the axes of the result, in order."
            )
    return View(value, dependence) if dependence.parts else value


def only_first(args: Sequence[Argument]) -> View | None:
    """The first argument, if it alone depends on parameters."""
    first, *others = args
    if any(isinstance(other, View) for other in others):
        return None
    return first if isinstance(first, View) else None
