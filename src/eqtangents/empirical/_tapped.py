"""Running a network so that its cotangents come out where parameters enter.

A tap is a zero that is added to a value: the derivative in it is the value's cotangent.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jaxtyping import Array

from eqtangents._jaxpr import (
    Environment,
    bind,
    count_uses,
    jaxpr_and_consts,
    live,
    scan_sizes,
    staged,
)
from eqtangents.empirical._loops import Crossing
from eqtangents.empirical._primitives import follow_equation, inner_program
from eqtangents.empirical._views import (
    Argument,
    Dependence,
    Part,
    Root,
    Use,
    View,
    new_labels,
    value_of,
)


class Noted(NamedTuple):
    """The places where parameters enter a program, and its taps, without arrays."""

    uses: tuple[Use, ...]
    taps: tuple[jax.ShapeDtypeStruct, ...]


def zeros_of(taps: Sequence[jax.ShapeDtypeStruct], like: Array) -> list[Array]:
    """Zeros for taps, which vary over the axes of a mesh that `like` varies over."""
    return [jnp.zeros_like(like, tap.dtype, tap.shape) for tap in taps]


class TappedRun:
    """One run of a program, which notes where parameters enter.

    It lives as long as the trace that it runs in.
    """

    def __init__(self, taps: Sequence[Array] | None, like: Array):
        """Add these taps; with none given, find out which ones are needed.

        Zeros are made to vary over the axes of a mesh that `like` varies over.
        """
        self._given, self._like = taps, like
        self._taps: list[jax.ShapeDtypeStruct] = []
        self._uses: list[Use] = []
        self._tapped: dict[View, Array] = {}

    def parameter(self, leaf: int, value: Array) -> View:
        """A parameter whose structure is to be followed."""
        labels = new_labels(value.shape)
        return View(value, Dependence((Part(Root(leaf, labels), labels),), sole=True))

    def dense(self, leaf: int, value: Array) -> Array:
        """A parameter that is differentiated in as it stands."""
        return self.tapped(self.parameter(leaf, value))

    def tapped(self, argument: Argument) -> Any:
        """A plain value. A view's value has a tap, the same one each time."""
        if not isinstance(argument, View):
            return argument
        if argument not in self._tapped:
            value = jnp.asarray(argument.value)
            self._uses += [Use(part, len(self._taps)) for part in argument.parts]
            self._tapped[argument] = value + self._tap(value.shape, value.dtype)
        return self._tapped[argument]

    def _tap(self, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        self._taps.append(jax.ShapeDtypeStruct(shape, dtype))
        if self._given is None:
            return jnp.zeros_like(self._like, dtype, shape)
        return self._given[len(self._taps) - 1]

    def noted(self) -> tuple[list[list[Any]], Noted]:
        """The factors of each use that depend on the example, and all that does not."""
        factors = [use.part.varying() for use in self._uses]
        uses = [Use(use.part.as_shapes(), use.tap) for use in self._uses]
        return factors, Noted(tuple(uses), tuple(self._taps))

    def run(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Argument]
    ) -> list[Argument]:
        """Results of a program; they and its arguments may be views."""
        counts = count_uses(jaxpr)

        def bound(variables: Sequence[core.Var], values: Sequence[Any]) -> list[Any]:
            pairs = zip(variables, values, strict=True)
            return [self._bound(value, counts.get(v, 0)) for v, value in pairs]

        env = Environment(jaxpr, consts, bound(jaxpr.invars, args))
        plain = lambda value: value
        for eqn in live(jaxpr):
            results = self._results(eqn, env.read(eqn.invars, plain))
            env.write(eqn.outvars, bound(eqn.outvars, results))
        return env.read(jaxpr.outvars, plain)

    def _bound(self, value: Argument, readers: int) -> Argument:
        if readers < 2 or not isinstance(value, View):
            return value
        if value.applied:
            # Each reader would differentiate the data in it once more.
            return self.tapped(value)
        if not value.dependence.sole:
            return value
        return View(value.value, dataclasses.replace(value.dependence, sole=False))

    def _results(self, eqn: core.JaxprEqn, args: list[Argument]) -> list[Argument]:
        if any(isinstance(arg, View) for arg in args):
            if (inner := inner_program(eqn)) is not None:
                return self.run(*inner, args)
            if eqn.primitive is lax.scan_p:
                return self._scan(eqn, args)
            results = follow_equation(eqn, args, self.tapped)
            if results is not None:
                return results
        return bind(eqn, *map(self.tapped, args))

    def _scan(self, eqn: core.JaxprEqn, args: list[Argument]) -> list[Argument]:
        """A loop: taps are scanned over, and factors collected."""
        n_consts, n_carry = scan_sizes(eqn)
        length, after = eqn.params["length"], n_consts + n_carry
        crossing = Crossing(length)
        consts = [crossing.enter(arg, scanned=False) for arg in args[:n_consts]]
        entries = [crossing.enter(arg, scanned=True) for arg in args[after:]]
        fixed, xs = map(value_of, args[:n_consts]), list(map(value_of, args[after:]))
        entered = [enter(value) for enter, value in zip(consts, fixed, strict=True)]
        carry = list(map(self.tapped, args[n_consts:after]))

        def body(carry: list[Array], xs: list[Array], taps: Any) -> tuple[Any, Noted]:
            inner = TappedRun(taps, self._like)
            scanned = [enter(x) for enter, x in zip(entries, xs, strict=True)]
            program = jaxpr_and_consts(eqn.params["jaxpr"])
            results = inner.run(*program, [*entered, *carry, *scanned])
            results = list(map(inner.tapped, results))
            factors, noted = inner.noted()
            return (results[:n_carry], (results[n_carry:], factors)), noted

        one = jax.tree.map(lambda x: x[0], xs)
        _, (_, needed) = staged(body, carry, one, None)
        zeros = zeros_of(needed, self._like)
        step, (uses, needed) = staged(body, carry, one, zeros)
        first = len(self._taps)
        taps = [self._tap((length, *tap.shape), tap.dtype) for tap in needed]
        options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
        carry, (ys, factors) = lax.scan(
            lambda carry, scanned: step(carry, *scanned), carry, (xs, taps), **options
        )
        for use, arrays in zip(uses, factors, strict=True):
            self._uses.append(Use(crossing.leave(use.part, arrays), first + use.tap))
        return [*carry, *ys]
