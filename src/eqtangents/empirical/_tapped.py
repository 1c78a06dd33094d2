"""Running a network so that its cotangents come out where parameters enter."""

import dataclasses
from collections.abc import Sequence
from typing import Any

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
)
from eqtangents.empirical._rules import apply
from eqtangents.empirical._views import (
    Label,
    Labelling,
    Part,
    Taps,
    Use,
    View,
    is_shared,
    varying,
)


# Run as if their programs stood in their place. What a checkpoint saves is dwarfed by
# the cotangents, one for each output, that are needed of every layer at once.
_INLINED = {"jit", "closed_call", "remat2", "checkpoint"}


class Tapped:
    """One run of a network."""

    def __init__(self, taps: Taps, labelling: Labelling):
        """Add these taps; make labels and roots here."""
        self.taps, self.labelling = taps, labelling
        self.uses: list[Use] = []

    def parameter(self, leaf: int, value: Array) -> View:
        """A parameter whose structure is to be followed."""
        labels = self.labelling.labels(value.shape)
        root = self.labelling.root(leaf, labels)
        return View(value, (Part(root, labels),), sole=True)

    def dense(self, leaf: int, value: Array) -> Array:
        """A parameter that is differentiated in as it stands."""
        return self.tapped(self.parameter(leaf, value))

    def tapped(self, view: Any) -> Any:
        """A plain value, of a view one with a tap."""
        if not isinstance(view, View):
            return view
        if view.tapped is None:
            tap = len(self.taps.shapes)
            value = jnp.asarray(view.value)
            view.tapped = value + self.taps.take(value.shape, value.dtype)
            self.uses += [Use(part, tap) for part in view.parts]
        return view.tapped

    def run(
        self, jaxpr: core.Jaxpr, consts: Sequence[Any], args: Sequence[Any]
    ) -> list[Any]:
        """Results of a program; they and its arguments may be views."""
        counts = count_uses(jaxpr)
        env = Environment(jaxpr, consts, args)

        def read(atoms: Sequence[Any]) -> list[Any]:
            found = env.read(atoms, lambda value: value)
            return [
                self._read(value, atom, counts) if isinstance(value, View) else value
                for atom, value in zip(atoms, found, strict=True)
            ]

        for eqn in live(jaxpr):
            env.write(eqn.outvars, self._results(eqn, read(eqn.invars)))
        return read(jaxpr.outvars)

    def _read(self, view: View, atom: Any, counts: dict[Any, int]) -> Any:
        if counts[atom] == 1:
            return view
        view.sole = False
        # With data in it, each reader would differentiate it once more.
        return self.tapped(view) if view.applied else view

    def _results(self, eqn: core.JaxprEqn, args: list[Any]) -> list[Any]:
        if any(isinstance(arg, View) for arg in args):
            name, params = eqn.primitive.name, eqn.params
            if name in _INLINED:
                inner = params.get("jaxpr", params.get("call_jaxpr"))
                return self.run(*jaxpr_and_consts(inner), args)
            if name == "scan":
                return self._scan(eqn, args)
            results = apply(eqn, args, self.labelling, self.tapped)
            if results is not None:
                return results
        return bind(eqn, *map(self.tapped, args))

    def _scan(self, eqn: core.JaxprEqn, args: list[Any]) -> list[Any]:
        """A loop: taps are scanned over, and factors collected."""
        n_consts, n_carry = scan_sizes(eqn)
        length, after = eqn.params["length"], n_consts + n_carry
        crossing = _Crossing(self.labelling, length)
        views = [crossing.enter(arg, scanned=False) for arg in args[:n_consts]]
        views += [None] * n_carry
        views += [crossing.enter(arg, scanned=True) for arg in args[after:]]
        plain = [arg.value if isinstance(arg, View) else arg for arg in args]
        carry = list(map(self.tapped, args[n_consts:after]))
        last: list[Tapped] = []

        def body(carry: list[Array], scanned: tuple) -> tuple:
            xs, taps = scanned
            inner = Tapped(Taps(taps), self.labelling)
            results = inner.run(
                *jaxpr_and_consts(eqn.params["jaxpr"]),
                [
                    x if view is None else dataclasses.replace(view, value=x)
                    for view, x in zip(
                        views, [*plain[:n_consts], *carry, *xs], strict=True
                    )
                ],
            )
            results = list(map(inner.tapped, results))
            last[:] = [inner]
            factors = [varying(use.part) for use in inner.uses]
            return results[:n_carry], (results[n_carry:], factors)

        xs = plain[after:]
        one = jax.tree.map(lambda x: x[0], xs)
        jax.eval_shape(lambda carry, one: body(carry, (one, None)), carry, one)
        first = len(self.taps.shapes)
        taps = [
            self.taps.take((length, *tap.shape), tap.dtype)
            for tap in last[0].taps.shapes
        ]
        options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
        carry, (ys, factors) = lax.scan(body, carry, (xs, taps), **options)
        for use, arrays in zip(last[0].uses, factors, strict=True):
            self.uses.append(Use(crossing.leave(use.part, arrays), first + use.tap))
        return [*carry, *ys]


class _Crossing:
    """Parts as they are inside of a loop, and then again outside."""

    def __init__(self, labelling: Labelling, length: int):
        """Enter a loop of some length."""
        self.labelling, self.length = labelling, length
        self.outside: list[tuple[Part, Label, int]] = []

    def enter(self, arg: Any, *, scanned: bool) -> View | None:
        """A view in one iteration, still without a value."""
        if not isinstance(arg, View):
            return None
        parts = []
        for part in arg.parts:
            labels = part.labels[1:] if scanned else part.labels
            lead = part.labels[0] if scanned else self.labelling.label(self.length)
            root = self.labelling.root(self.labelling.leaf_of[part.root], labels)
            parts.append(Part(root, labels, entry=len(self.outside)))
            self.outside.append((part, lead, root))
        sole = arg.sole and all(map(self.labelling.is_whole, arg.parts))
        return View(None, tuple(parts), arg.applied, sole)

    def leave(self, part: Part, arrays: Sequence[Any]) -> Part:
        """The part over all iterations, given its factors, stacked."""
        assert part.entry is not None
        outer, lead, entered_as = self.outside[part.entry]
        roots = self.labelling.roots
        root = outer.root if part.root == entered_as else part.root
        if root != outer.root and lead in outer.labels and lead not in roots[root]:
            roots[root] = (lead, *roots[root])
        stacked = iter(arrays)
        factors = [
            (array, labels) if is_shared(array) else (next(stacked), (lead, *labels))
            for array, labels in part.factors
        ]
        windows = [w for w in part.windows if w[0] in roots[root]]
        return Part(
            root,
            (lead, *part.labels),
            (*outer.factors, *factors),
            (*outer.windows, *windows),
            outer.entry,
        )
