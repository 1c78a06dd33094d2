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


@dataclasses.dataclass(frozen=True)
class Loop:
    """A loop in two parts, each a program and its constants.

    `before`: what is computed of `times`, of all at once, and no state has a part in.
    `step`: what comes after, at each time, of what is carried, of one of each of `own`
    and of the results of `before`. `fixed`: the arguments that both have first.
    """

    before: tuple[core.Jaxpr, Sequence[Any]]
    step: tuple[core.Jaxpr, Sequence[Any]]
    fixed: Sequence[Any]
    begins: Sequence[Any]
    own: Sequence[Any]
    times: Sequence[Any]
    reverse: bool


def parted(eqn: core.JaxprEqn, args: Sequence[Any], *, at_once: bool) -> Loop:
    """The parts of a loop; all of it is in `step` unless `at_once`."""
    n_fixed, n_carry = scan_sizes(eqn)
    jaxpr, consts = jaxpr_and_consts(eqn.params["jaxpr"])
    first = n_fixed + n_carry
    xs = [(i, isinstance(x, Parameter)) for i, x in enumerate(args[first:], first)]
    own = [i for i, of_layers in xs if of_layers or not at_once]
    times = [i for i, of_layers in xs if not of_layers and at_once]
    inner = jaxpr.invars
    carried = [*inner[n_fixed:first], *(inner[i] for i in own)]
    of_both, before, later, met = _by_what_they_read(
        jaxpr, carried, [inner[i] for i in times]
    )
    about = core.DebugInfo("eqtangents", "scan", None, None)
    part = lambda invars, outvars, eqns: core.Jaxpr(
        jaxpr.constvars, invars, outvars, eqns, jaxpr.effects, about
    )
    fixed = inner[:n_fixed]
    one_time = part([*fixed, *(inner[i] for i in times)], met, [*of_both, *before])
    step = part([*fixed, *carried, *met], jaxpr.outvars, [*of_both, *later])
    axes = (None,) * n_fixed + (0,) * len(times)
    mapped = jax.vmap(core.jaxpr_as_fun(core.ClosedJaxpr(one_time, consts)), axes)
    atoms = [*eqn.invars[:n_fixed], *(eqn.invars[i] for i in times)]
    structs = [jax.ShapeDtypeStruct(shape_of(a), dtype_of(a)) for a in atoms]
    return Loop(
        jaxpr_and_consts(jax.make_jaxpr(mapped)(*structs)) if met else (one_time, ()),
        (step, consts),
        args[:n_fixed],
        args[n_fixed:first],
        [args[i] for i in own],
        [args[i] for i in times],
        bool(eqn.params["reverse"]),
    )


def states_of_loop(
    builder: Builder, loop: Loop, added: Sequence[Any], run: _Walks
) -> RandomValue | None:
    r"""The states of a loop $h_t = \phi(A h_{t-1} + B(x)_t)$, or `None` for others.

    Time is their first axis. States begin at zero, and nothing else is carried or kept.
    `added`: what has been computed before.
    """
    outputs = loop.step[0].outvars
    if (
        len(loop.begins) != 1
        or loop.own
        or any(out is not outputs[0] for out in outputs)
    ):
        return None
    (begin,) = loop.begins
    if isinstance(begin, ReadValue) or as_number(begin) != 0 or len(added) != 1:
        return None
    (values,) = added
    if not isinstance(values, RandomValue) or values.shape[1:] != np.shape(begin):
        return None
    if len(values.shape) != 2 or values.shape[0] < 2:
        return None
    state, one = (Node(None, (), values.shape[1:], "") for _ in range(2))
    first = Layout.first(values.shape[1:])
    given = [RandomValue.of(node, first) for node in (state, one)]
    try:
        after = run(*loop.step, [*loop.fixed, *given])[0]
        return _layer_of_step(builder, after, state, one, values, reverse=loop.reverse)
    except (Unreadable, nn.LayerError):
        return None


def _by_what_they_read(
    jaxpr: core.Jaxpr, carried: Sequence[core.Var], times: Sequence[core.Var]
) -> tuple[list[Any], list[Any], list[Any], list[core.Var]]:
    """The equations of a step: of neither, of `times` alone, and of what is carried.

    Last are the values of `times` alone that others read, or that are results.
    """
    after_state, of_time = set(carried), set(times)
    of_both, before, later = [], [], []
    met: dict[core.Var, None] = {}
    for one in jaxpr.eqns:
        reads = [v for v in one.invars if not isinstance(v, core.Literal)]
        if after_state.intersection(reads):
            after_state.update(one.outvars)
            later.append(one)
            met.update(dict.fromkeys(v for v in reads if v in of_time))
        elif of_time.intersection(reads):
            of_time.update(one.outvars)
            before.append(one)
        else:
            of_both.append(one)
    results = [v for v in jaxpr.outvars if not isinstance(v, core.Literal)]
    met.update(dict.fromkeys(v for v in results if v in of_time))
    return of_both, before, later, [*met]


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
