r"""The waist of a network: a value through which all that comes before it passes.

If it has fewer numbers than there are rows of the Jacobian, a classifier with many
classes above few features say, rows below it are those of the waist,

$$J = \frac{\partial y}{\partial v} J_v, \qquad
\Theta = \frac{\partial y}{\partial v} \Theta_v
\left(\frac{\partial y}{\partial v'}\right)^\top + \Theta_{\text{above}}$$

with the kernel $\Theta_v$ of the value $v$ in the parameters below, and that of the
outputs in those above. The product costs no more than the contraction for the one layer
that makes $v$ would cost with all rows.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array, PyTree

from eqtangents._jaxpr import (
    Environment,
    Program,
    bind,
    jaxpr_and_consts,
    live,
    shape_of,
    traced,
)
from eqtangents.empirical._primitives import inner_program


_Equations: TypeAlias = list[core.JaxprEqn]


@dataclasses.dataclass(frozen=True)
class Waist:
    """A network in two: `below(leaves, example)` gives the value that `above` takes.

    The value is the last of the leaves of `above`.
    """

    below: Program
    above: Program
    value: Array


def find_waist(
    network: Program, leaves: list[Array], example: PyTree, rows: int
) -> Waist | None:
    """The last value with at most half as many numbers as there are rows.

    No parameter may enter both above and below. Below, there may be another waist.
    """
    program = traced(
        lambda *args: _inlined(
            *jaxpr_and_consts(network.closed), jax.tree.leaves(args)
        ),
        leaves,
        example,
    )
    jaxpr, consts = jaxpr_and_consts(program.closed)
    if any(eqn.effects for eqn in jaxpr.eqns):
        return None
    found = _halves_at_waist(jaxpr, len(leaves), rows)
    if found is None:
        return None
    value, below, above = found

    def run(part: _Equations, given: dict[core.Var, Array], *args: PyTree) -> Any:
        env = Environment(jaxpr, consts, jax.tree.leaves(args))
        env.write([*given], [*given.values()])
        _write(env, part)
        return env

    def run_below(leaves: list[Array], example: PyTree) -> list[Array]:
        return run(below, {}, leaves, example).read([value], _as_it_is)

    def run_above(leaves: list[Array], example: PyTree) -> list[Array]:
        *leaves, given = leaves
        return run(above, {value: given}, leaves, example).read(
            jaxpr.outvars, _as_it_is
        )

    first = traced(run_below, leaves, example)
    (one,) = first.outputs
    zeros = jnp.zeros_like(leaves[0], shape=one.shape, dtype=one.dtype)
    return Waist(first, traced(run_above, [*leaves, zeros], example), zeros)


def _halves_at_waist(
    jaxpr: core.Jaxpr, n_leaves: int, rows: int
) -> tuple[core.Var, _Equations, _Equations] | None:
    """The value of the waist, and the equations below and above."""
    parameters = {*jaxpr.invars[:n_leaves]}
    outputs = [v for v in jaxpr.outvars if not isinstance(v, core.Literal)]
    for value in reversed(list(_lone_values(jaxpr, n_leaves))):
        if 2 * math.prod(shape_of(value)) > rows:
            continue
        below = _leading_to(jaxpr, [value], ())
        above = _leading_to(jaxpr, outputs, [value])
        entering = [parameters & _read(part) for part in (below, above)]
        if entering[0] and not entering[0] & entering[1]:
            return value, below, above
    return None


def _as_it_is(value: Any) -> Any:
    return value


def _inlined(jaxpr: core.Jaxpr, consts: Sequence[Any], args: list[Any]) -> list[Any]:
    """Results of a program, without programs inside that run once."""
    env = Environment(jaxpr, consts, args)
    _write(env, live(jaxpr))
    return env.read(jaxpr.outvars, _as_it_is)


def _write(env: Environment, equations: _Equations) -> None:
    """Evaluate equations."""
    for eqn in equations:
        args = env.read(eqn.invars, _as_it_is)
        inner = inner_program(eqn)
        results = bind(eqn, *args) if inner is None else _inlined(*inner, args)
        env.write(eqn.outvars, results)


def _leading_to(
    jaxpr: core.Jaxpr, results: Sequence[core.Var], given: Sequence[core.Var]
) -> _Equations:
    """The equations that results depend on, where some values are given."""
    needed, kept = {*results}.difference(given), []
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(_read([eqn]).difference(given))
            kept.append(eqn)
    return kept[::-1]


def _read(equations: _Equations) -> set[core.Var]:
    """Variables that equations read."""
    read = (v for eqn in equations for v in eqn.invars)
    return {v for v in read if not isinstance(v, core.Literal)}


def _lone_values(jaxpr: core.Jaxpr, n_leaves: int) -> Iterator[core.Var]:
    """Values that depend on parameters and on data, at times when no other is alive."""
    parameters, data = {*jaxpr.invars[:n_leaves]}, {*jaxpr.invars[n_leaves:]}
    last_read = {v: i for i, eqn in enumerate(jaxpr.eqns) for v in _read([eqn])}
    last_read |= dict.fromkeys(
        (v for v in jaxpr.outvars if not isinstance(v, core.Literal)), len(jaxpr.eqns)
    )
    alive: set[core.Var] = set()
    for i, eqn in enumerate(jaxpr.eqns):
        read = _read([eqn])
        of_both = read & parameters and read & data
        for kind in (parameters, data):
            if read & kind:
                kind.update(eqn.outvars)
        made = {v for v in eqn.outvars if v in last_read} if of_both else set()
        alive = {v for v in alive | made if last_read[v] > i}
        if len(alive) == 1:
            (value,) = alive
            dtype = getattr(value.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
                yield value
