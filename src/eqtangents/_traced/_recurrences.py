"""Loops over time whose state meets the same weights in every step."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from eqtangents import nn
from eqtangents._jaxpr import dtype_of, jaxpr_and_consts, scan_sizes, shape_of
from eqtangents._traced._builder import Builder
from eqtangents._traced._layout import Layout, axis_factors
from eqtangents._traced._trained import with_offset
from eqtangents._traced._values import (
    Node,
    Parameter,
    RandomValue,
    ReadValue,
    Unreadable,
    as_number,
)
from eqtangents.nn._activations import AbstractActivation


# Reads a program, given the values of its constants and arguments.
_Walks = Callable[[core.Jaxpr, Sequence[Any], Sequence[Any]], list[Any]]


def states_of_loop(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any], run: _Walks
) -> RandomValue | None:
    r"""The states of a loop $h_t = \phi(A h_{t-1} + B(x)_t)$, or `None` for others.

    Time is their first axis. States begin at zero, and nothing else is carried or kept.
    """
    loop = _parted(eqn, args)
    if loop is None or as_number(loop.begins) != 0:
        return None
    try:
        (added,) = run(*loop.added, [*loop.fixed, *loop.xs])
        if not isinstance(added, RandomValue) or len(added.shape) != 2:
            return None
        state, one = (Node(None, (), added.shape[1:], "") for _ in range(2))
        first = Layout.first(added.shape[1:])
        given = [RandomValue.of(node, first) for node in (state, one)]
        (after,) = run(*loop.step, [*loop.fixed, *given])
        return _layer_of_step(builder, after, state, one, added, reverse=loop.reverse)
    except (Unreadable, nn.LayerError):
        return None


@dataclasses.dataclass(frozen=True)
class _Loop:
    """A loop in two parts, each a program and its constants.

    `added`: what is computed of all `xs`, of which each `step` takes one, after the
    state before. `fixed`: the arguments that both parts have first.
    """

    added: tuple[core.Jaxpr, Sequence[Any]]
    step: tuple[core.Jaxpr, Sequence[Any]]
    fixed: Sequence[Any]
    begins: Any
    xs: Sequence[Any]
    reverse: bool


def _parted(eqn: core.JaxprEqn, args: Sequence[Any]) -> _Loop | None:
    """The parts of a loop, if its step reads one value of each time beside a state."""
    n_fixed, n_carry = scan_sizes(eqn)
    jaxpr, consts = jaxpr_and_consts(eqn.params["jaxpr"])
    fixed, xs = args[:n_fixed], args[n_fixed + 1 :]
    if n_carry != 1 or eqn.params["length"] < 2 or isinstance(args[n_fixed], ReadValue):
        return None
    if any(isinstance(one, Parameter) for one in xs):
        return None
    state, times = jaxpr.invars[n_fixed], jaxpr.invars[n_fixed + 1 :]
    if any(out is not jaxpr.outvars[0] for out in jaxpr.outvars):
        return None
    of_both, before, later, met = _by_what_they_read(jaxpr, state, times)
    if len(met) != 1:
        return None
    (added,) = met
    own = jaxpr.invars[:n_fixed]
    about = core.DebugInfo("eqtangents", "scan", None, None)
    part = lambda invars, outvars, eqns: core.Jaxpr(
        jaxpr.constvars, invars, outvars, eqns, jaxpr.effects, about
    )
    one_time = part([*own, *times], [added], [*of_both, *before])
    step = part([*own, state, added], [jaxpr.outvars[0]], [*of_both, *later])
    axes = (None,) * n_fixed + (0,) * len(times)
    mapped = jax.vmap(core.jaxpr_as_fun(core.ClosedJaxpr(one_time, consts)), axes)
    given = [*eqn.invars[:n_fixed], *eqn.invars[n_fixed + 1 :]]
    structs = [jax.ShapeDtypeStruct(shape_of(a), dtype_of(a)) for a in given]
    at_all_times = jaxpr_and_consts(jax.make_jaxpr(mapped)(*structs))
    reverse = bool(eqn.params["reverse"])
    return _Loop(at_all_times, (step, consts), fixed, args[n_fixed], xs, reverse)


def _by_what_they_read(
    jaxpr: core.Jaxpr, state: core.Var, times: Sequence[core.Var]
) -> tuple[list[Any], list[Any], list[Any], set[core.Var]]:
    """The equations of a step: of no time, of one time alone, and after the state.

    Last are the values of one time that the state meets.
    """
    after_state, of_time = {state}, set(times)
    of_both, before, later, met = [], [], [], set()
    for one in jaxpr.eqns:
        reads = {v for v in one.invars if not isinstance(v, core.Literal)}
        if reads & after_state:
            after_state.update(one.outvars)
            later.append(one)
            met |= reads & of_time
        elif reads & of_time:
            of_time.update(one.outvars)
            before.append(one)
        else:
            of_both.append(one)
    return of_both, before, later, met


def _layer_of_step(
    builder: Builder,
    after: Any,
    state: Node,
    one: Node,
    added: RandomValue,
    *,
    reverse: bool,
) -> RandomValue | None:
    """The layer of a step from `state` and `one` to what comes `after`."""
    if not isinstance(after, RandomValue) or after.layout.axes != (
        after.layout.channels,
    ):
        return None
    end = builder.node(after)
    if not isinstance(end.layer, AbstractActivation) or len(end.reads) != 1:
        return None
    parts = list(end.reads[0].reads)
    (hidden, *more) = [part for part in parts if part.reads == (state,)] or [None]
    biases = [part for part in parts if part is not hidden and part is not one]
    if (
        not isinstance(end.reads[0].layer, nn.FanInSum)
        or hidden is None
        or more
        or one not in parts
        or not isinstance(hidden.layer, nn.Linear)
        or not all(isinstance(bias.layer, nn.Learned) for bias in biases)
    ):
        return None
    for bias in biases:
        (held,) = bias.holds
        numbers = np.broadcast_to(held.numbers.reshape(-1), added.shape)
        added = with_offset(builder, added, Parameter(held.leaf, numbers, held.factor))
    layout = added.layout
    if layout.axes[1] != layout.channels:
        return None
    added = builder.rearranged(added, [layout.axes[0]])
    node, time = builder.node(added), layout.axes[0]
    layer = nn.Recurrent(hidden.layer, nn.Identity(), end.layer, reverse=reverse)
    made = builder.add(layer, [node], node.shape, hidden.holds)
    channels = axis_factors(node.shape[0])
    return RandomValue.of(made, Layout(channels, (time,), (time, channels)))
