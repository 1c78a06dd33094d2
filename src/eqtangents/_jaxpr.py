"""Reading programs that JAX has traced, one equation at a time."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree


Static = TypeVar("Static")


@dataclasses.dataclass(frozen=True)
class Program:
    """A function that has been traced: calling it runs no more of its Python."""

    closed: core.ClosedJaxpr
    outputs: PyTree[jax.ShapeDtypeStruct]

    def __call__(self, *args: PyTree) -> PyTree:
        """Evaluate the program; arguments have the structure it was traced with."""
        results = core.jaxpr_as_fun(self.closed)(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(self.outputs), results)


def traced(function: Callable[..., PyTree], *args: PyTree) -> Program:
    """Trace a function of arrays, given some or their shapes."""
    return Program(*jax.make_jaxpr(function, return_shape=True)(*args))


def staged(
    function: Callable[..., tuple[PyTree, Static]], *args: PyTree
) -> tuple[Program, Static]:
    """Trace a function of arrays that returns arrays, and something known by then.

    **Returns:** the program, which returns the arrays, and what is known. It leaves the
    trace as part of the results' structure, so that it is there also when JAX takes the
    trace from a cache; nothing is assigned on the side. It must hold no array of the
    trace.
    """

    def with_static(*args: PyTree) -> tuple[PyTree, Untraced]:
        arrays, static = function(*args)
        return arrays, Untraced(static)

    program = traced(with_static, *args)
    arrays, static = program.outputs
    return Program(program.closed, arrays), static.value


class Untraced(eqx.Module):
    """A node of a tree that has no arrays, but something known while tracing."""

    _box: "_Box" = eqx.field(static=True)

    def __init__(self, value: Any):
        """Put this in a box: JAX compares structures, and need not look inside."""
        self._box = _Box(value)

    @property
    def value(self) -> Any:
        """The value that was put in."""
        return self._box.value


@dataclasses.dataclass(frozen=True, eq=False)
class _Box:
    """Anything, compared by identity."""

    value: Any


class Environment:
    """The values that variables of one program are bound to."""

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
    """The shape of a value; one that is no array counts as a number."""
    return getattr(atom.aval, "shape", ())


def dtype_of(atom: core.Var | core.Literal) -> Any:
    """The type of the entries of a value; `None` for one that has none."""
    return getattr(atom.aval, "dtype", None)


def bind(eqn: core.JaxprEqn, *args: Any) -> list[Any]:
    """Apply one equation, its custom derivatives and all.

    A variable that it reads twice takes the value of the last of its arguments.
    """
    variables = {}
    for atom, arg in zip(eqn.invars, args, strict=True):
        if not isinstance(atom, core.Literal):
            variables[atom] = arg
    about = core.DebugInfo("eqtangents", eqn.primitive.name, None, None)
    program = core.Jaxpr((), [*variables], eqn.outvars, [eqn], eqn.effects, about)
    closed = core.ClosedJaxpr(program, ())
    return core.jaxpr_as_fun(closed)(*variables.values())


def bind_as(dtype: Any, eqn: core.JaxprEqn, *args: Any) -> list[Any]:
    """Apply one equation as if it had been traced for real numbers of another type.

    Where a function has a derivative of its own, that is computed in the type it was
    traced in.
    """
    real = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    cast = lambda x, kind: jnp.asarray(x, kind) if real(x) else x
    args = tuple(cast(arg, dtype) for arg in args)
    if eqn.primitive.name == "convert_element_type":
        to = eqn.params["new_dtype"]
        return [jnp.asarray(args[0], dtype if jnp.issubdtype(to, jnp.inexact) else to)]
    inner = eqn.params.get("call_jaxpr", eqn.params.get("jaxpr"))
    if inner is None:
        out = eqn.primitive.bind(*args, **eqn.params)
        return list(out) if eqn.primitive.multiple_results else [out]
    program, consts = jaxpr_and_consts(inner)

    @jax.custom_jvp
    def applied(*args: Any) -> list[Array]:
        env = Environment(program, consts, args)
        for one in program.eqns:
            given = env.read(one.invars, lambda value: value)
            env.write(one.outvars, bind_as(dtype, one, *given))
        return [cast(x, dtype) for x in env.read(program.outvars, lambda value: value)]

    @applied.defjvp
    def derivative(primals: Any, tangents: Any) -> Any:
        types = [dtype_of(atom) for atom in eqn.invars]
        own = lambda given: [cast(x, t) for x, t in zip(given, types, strict=True)]
        _, slopes = jax.jvp(lambda *x: bind(eqn, *x), own(primals), own(tangents))
        return applied(*primals), [cast(x, dtype) for x in slopes]

    return applied(*args)


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

    The ranks tell, because versions of JAX store the numbers differently: an array that
    is scanned over has one axis more outside of the loop than inside.
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
