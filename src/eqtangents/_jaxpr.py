"""Reading programs that JAX has traced, one equation at a time."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.extend import core


class Environment:
    """What the variables of one program are bound to."""

    def __init__(self, jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]):
        """Bind the program's constants and arguments."""
        self._values = dict(zip(jaxpr.constvars, consts, strict=True))
        self._values.update(zip(jaxpr.invars, args, strict=True))

    def read(
        self, atoms: Sequence[core.Var | core.Literal], literal: Callable
    ) -> list[Any]:
        """Values of variables; literals through `literal`."""
        return [
            literal(atom.val) if isinstance(atom, core.Literal) else self._values[atom]
            for atom in atoms
        ]

    def write(self, variables: Sequence[core.Var], values: Sequence[Any]) -> None:
        """Bind the results of an equation."""
        self._values.update(zip(variables, values, strict=True))


def jaxpr_and_consts(jaxpr: Any) -> tuple[core.Jaxpr, Sequence[Any]]:
    """A program and its constants, whether or not it came with them."""
    # From JAX 0.11 there is one class where there were two.
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def shape_of(atom: core.Var | core.Literal) -> tuple[int, ...]:
    """The shape of a value; of what is no array, that of a number."""
    return getattr(atom.aval, "shape", ())


def bind(eqn: core.JaxprEqn, *args: Any) -> list[Any]:
    """Apply one equation, its custom derivatives and all.

    A variable that it reads twice has one value: that of the last of its arguments.
    """
    variables = {}
    for atom, arg in zip(eqn.invars, args, strict=True):
        if not isinstance(atom, core.Literal):
            variables[atom] = arg
    about = core.DebugInfo("eqtangents", eqn.primitive.name, None, None)
    program = core.Jaxpr((), [*variables], eqn.outvars, [eqn], eqn.effects, about)
    closed = core.ClosedJaxpr(program, ())
    return core.jaxpr_as_fun(closed)(*variables.values())


def live(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """The equations that the results depend on, and those with effects."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or needed.intersection(eqn.outvars):
            needed.update(v for v in eqn.invars if not isinstance(v, core.Literal))
            kept.append(eqn)
    return kept[::-1]


def scan_sizes(eqn: core.JaxprEqn) -> tuple[int, int]:
    """How many inputs of a scan are constants, and how many are carried.

    Told by rank, because versions of JAX store it differently: what is scanned over has
    one axis more outside of the loop than inside.
    """
    body, _ = jaxpr_and_consts(eqn.params["jaxpr"])

    def unscanned(outer: Sequence[Any], inner: Sequence[Any]) -> int:
        pairs = zip(outer, inner, strict=True)
        return sum(a.aval.ndim == b.aval.ndim for a, b in pairs)

    n_carry = unscanned(eqn.outvars, body.outvars)
    return unscanned(eqn.invars, body.invars) - n_carry, n_carry


def count_uses(jaxpr: core.Jaxpr) -> dict[core.Var, int]:
    """How often each variable is read, by equations or as a result."""
    counts: dict[core.Var, int] = {}
    read = [atom for eqn in jaxpr.eqns for atom in eqn.invars]
    for atom in [*read, *jaxpr.outvars]:
        if not isinstance(atom, core.Literal):
            counts[atom] = counts.get(atom, 0) + 1
    return counts
