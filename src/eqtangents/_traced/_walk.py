"""Walking through the equations of a program, with parts of a network as values."""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from eqtangents._jaxpr import (
    Environment,
    bind,
    dtype_of,
    jaxpr_and_consts,
    live,
    scan_sizes,
    shape_of,
)
from eqtangents._traced._attention import with_scores
from eqtangents._traced._builder import Builder
from eqtangents._traced._entries import entrywise
from eqtangents._traced._expressions import results_of
from eqtangents._traced._lines import calls_library, line_of
from eqtangents._traced._numpy import in_numpy, result_values
from eqtangents._traced._recurrences import Loop, parted, states_of_loop
from eqtangents._traced._rules import OF_ENTRIES, SIGNAL_RULES
from eqtangents._traced._statistics import (
    begins_statistic,
    with_statistics,
)
from eqtangents._traced._values import (
    InputFunction,
    Parameter,
    RandomValue,
    ReadValue,
    Scores,
    Statistic,
    Unreadable,
    refusal,
    with_line,
)
from eqtangents.nn._layer import LayerError


_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint", "remat2"}
_CUSTOM = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_DECIDES = (
    "decides by what it computes, which networks of layers do not. Decide by the input "
    "or by Python values, or loop by `jax.lax.scan`."
)
# What moves entries of parameters: the same is done to their numbers.
_OF_NUMBERS = frozenset(
    "transpose reshape squeeze expand_dims broadcast_in_dim slice rev dynamic_slice "
    "gather split copy copy_p".split()
)


class Walk:
    """Reads a program, for a builder and the model that it is of."""

    def __init__(self, builder: Builder, model: Any):
        """Begin at no line."""
        self.builder, self.model, self._fixed_line = builder, model, ""

    def run(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]
    ) -> list[Any]:
        """The values of a program's results."""
        env = Environment(jaxpr, consts, args)
        for eqn in live(jaxpr):
            if not self._fixed_line:
                self.builder.line = line_of(eqn) or self.builder.line
            given = env.read(eqn.invars, lambda value: value)
            env.write(eqn.outvars, self._equation(eqn, given))
        return env.read(jaxpr.outvars, lambda value: value)

    def _equation(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        if not any(isinstance(arg, ReadValue) for arg in args):
            return result_values(eqn, args)
        if all(0 in shape_of(atom) for atom in eqn.outvars):
            return [np.zeros(shape_of(a), dtype_of(a)) for a in eqn.outvars]
        if eqn.primitive.name in _CALLS:
            return self._called(eqn, args)
        try:
            return self._ruled(eqn, args)
        except Unreadable as error:
            line = self.builder.line
            raise refusal(self.model, f"{error}", line) from None
        except LayerError as error:
            raise with_line(error, self.builder.line) from None

    def _called(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        jaxpr, consts = jaxpr_and_consts(inner)
        if str(eqn.params.get("name", "")).startswith("eqtangents_dropout"):
            return SIGNAL_RULES["eqtangents_dropout"](self.builder, eqn, args)
        before = self._fixed_line
        if calls_library(eqn):
            self._fixed_line = before or self.builder.line
        try:
            return self.run(jaxpr, consts, args)
        finally:
            self._fixed_line = before

    def _ruled(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        name, builder = eqn.primitive.name, self.builder
        traced = [arg for arg in args if isinstance(arg, ReadValue)]
        if name == "scan":
            return self._scanned(eqn, args)
        if name in _CUSTOM and not _is_entrywise(eqn):
            inner = eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
            return self.run(*jaxpr_and_consts(inner), args)
        if name == "cond" and not isinstance(args[0], ReadValue):
            return self._branch(eqn, args)
        if name == "cond" and isinstance(args[0], InputFunction):
            return self._chosen_by_input(eqn, args)
        if all(isinstance(arg, InputFunction) for arg in traced):
            given = [a.expression if isinstance(a, InputFunction) else a for a in args]
            return [InputFunction(one) for one in results_of(eqn, given)]
        _check_is_of_layers(eqn)
        if any(isinstance(arg, Scores) for arg in args):
            return with_scores(builder, eqn, args)
        if isinstance(args[0], Parameter) and len(traced) == 1 and name in _OF_NUMBERS:
            return _moved_parameter(eqn, args)
        if isinstance(args[0], Parameter) and name == "stop_gradient":
            return [args[0].factor * builder.parameters.values(args[0])]
        if any(isinstance(arg, Statistic) for arg in args) or begins_statistic(
            builder, eqn, args
        ):
            of_signals = lambda args: self._of_signals(eqn, args)
            return with_statistics(builder, eqn, args, of_signals)
        return self._of_signals(eqn, args)

    def _of_signals(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        """What an equation makes of signals and parameters."""
        name, builder = eqn.primitive.name, self.builder
        alone = not any(isinstance(arg, RandomValue | InputFunction) for arg in args)
        if name in SIGNAL_RULES and (name == "dot_general" or not alone):
            return SIGNAL_RULES[name](builder, eqn, args)
        if name in OF_ENTRIES:
            return entrywise(builder, eqn, args)
        raise Unreadable(
            f"applies `{name}`, which is not known of layers.{_hint_for(name)}"
            if not alone
            else f"applies `{name}` to parameters alone, so that weights are no longer "
            "drawn independently."
        )

    def _scanned(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        """A loop, step by step, or as one layer with weights shared in time."""
        length, (_, n_carry) = int(eqn.params["length"]), scan_sizes(eqn)
        loop, added = self._computed_at_once(eqn, args)
        states = states_of_loop(self.builder, loop, added, self.run)
        if states is not None:
            last = self._item(states, 0 if loop.reverse else -1, length)
            return [last] + [states] * (len(eqn.outvars) - 1)
        carried, xs, steps = [*loop.begins], [*loop.own, *added], range(length)
        stacked: dict[int, list[Any]] = {}
        for i in reversed(steps) if loop.reverse else steps:
            each = [self._item(x, i, length) for x in xs]
            out = self.run(*loop.step, [*loop.fixed, *carried, *each])
            carried = out[:n_carry]
            stacked[i] = out[n_carry:]
        count = len(eqn.outvars) - n_carry
        ys = [[stacked[i][k] for i in steps] for k in range(count)]
        return [*carried, *(self._stacked(column) for column in ys)]

    def _computed_at_once(
        self, eqn: core.JaxprEqn, args: Sequence[Any]
    ) -> tuple[Loop, list[Any]]:
        """A loop, and what its layers make of the values of all times at once."""
        if any(isinstance(arg, Parameter) for arg in args):
            loop = parted(eqn, args, at_once=True)
            try:
                return loop, self.run(*loop.before, [*loop.fixed, *loop.times])
            except LayerError:  # then as the loop is written
                pass
        return parted(eqn, args, at_once=False), []

    def _item(self, value: Any, i: int, length: int) -> Any:
        if isinstance(value, Parameter):
            return Parameter(value.leaf, value.numbers[i], value.factor)
        if not isinstance(value, ReadValue):
            return value[i]
        return self._traced_like(lambda x: x[i], [value])

    def _stacked(self, column: list[Any]) -> Any:
        if not any(isinstance(value, ReadValue) for value in column):
            return jax.numpy.stack(column)
        if any(isinstance(value, Parameter) for value in column):
            raise Unreadable("stacks parameters in a loop.")
        return self._traced_like(lambda *xs: jax.numpy.stack(xs), column)

    def _traced_like(
        self, function: Any, values: Sequence[Any], dtypes: Sequence[Any] = ()
    ) -> Any:
        """A function of JAX of arrays, as this walk reads it."""
        types = dtypes or ["float32"] * len(values)
        shapes = [
            jax.ShapeDtypeStruct(np.shape(value), dtype)
            for value, dtype in zip(values, types, strict=True)
        ]
        closed = jax.make_jaxpr(function)(*shapes)
        before, self._fixed_line = self._fixed_line, self.builder.line
        try:
            (out,) = self.run(*jaxpr_and_consts(closed), values)
        finally:
            self._fixed_line = before
        return out

    def _chosen_by_input(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        """All branches, each of which counts where the input says so."""
        which, *given = args
        cases = [
            self.run(*jaxpr_and_consts(branch), given)
            for branch in eqn.params["branches"]
        ]

        def chosen(which: Any, *cases: Any) -> Any:
            kept = [jnp.where(which == i, one, 0) for i, one in enumerate(cases)]
            return functools.reduce(operator.add, kept)

        index = dtype_of(eqn.invars[0])
        return [
            self._traced_like(chosen, [which, *column], [index] + [dtype] * len(column))
            for dtype, *column in zip(map(dtype_of, eqn.outvars), *cases, strict=True)
        ]

    def _branch(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        """The branch that is known to be taken."""
        index = int(np.clip(int(args[0]), 0, len(eqn.params["branches"]) - 1))
        jaxpr, consts = jaxpr_and_consts(eqn.params["branches"][index])
        return self.run(jaxpr, consts, args[1:])


def _check_is_of_layers(eqn: core.JaxprEqn) -> None:
    """Raise for what networks do of their input alone."""
    if eqn.primitive.name in ("cond", "while"):
        raise Unreadable(_DECIDES)
    if any(jnp.issubdtype(dtype_of(a), jnp.complexfloating) for a in eqn.outvars):
        raise Unreadable(
            "computes with complex numbers, which no layer does. Write real and "
            "imaginary parts as arrays of their own."
        )


def _hint_for(name: str) -> str:
    """What to do instead of a primitive."""
    said = {
        "fft": "Transform the input, or multiply by a constant matrix.",
    }.get(name)
    return f" {said}" if said else ""


def _moved_parameter(eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Parameter]:
    first = args[0]
    found = in_numpy(eqn, [first.numbers, *args[1:]])
    if found is None:
        with jax.ensure_compile_time_eval():
            numbers = jax.numpy.asarray(first.numbers, "int32")
            found = bind(eqn, numbers, *args[1:])
    return [Parameter(first.leaf, np.asarray(n), first.factor) for n in found]


def _is_entrywise(eqn: core.JaxprEqn) -> bool:
    """Whether a function with derivatives of its own maps each entry by itself."""
    inner = eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    jaxpr, _ = jaxpr_and_consts(inner)
    return len(eqn.outvars) == 1 and _all_entrywise(jaxpr)


def _all_entrywise(jaxpr: core.Jaxpr) -> bool:
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in _CALLS or name in _CUSTOM:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            if inner is None or not _all_entrywise(jaxpr_and_consts(inner)[0]):
                return False
        elif name == "broadcast_in_dim":
            if getattr(eqn.invars[0].aval, "shape", ()):
                return False
        elif name not in OF_ENTRIES:
            return False
    return True
