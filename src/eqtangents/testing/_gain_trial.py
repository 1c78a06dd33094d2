"""A rule of training on trial: its gains and their derivatives, in tables.

Everything is computed at the same shapes, so that each rule is compiled a few times.
"""

from collections.abc import Iterator
from typing import Any, NoReturn, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents.predict import AbstractRule


GainTable: TypeAlias = Float[Array | np.ndarray, "times n"]

# Whole numbers, since some rules make steps.
TRIAL_TIMES = (0.0, 1.0, 2.0, 3.0, 10.0, 30.0)
# The finite ones are below the largest integer of 32 bits.
LATE_TIMES = (1e8, 1e9, np.inf)
_FRACTIONS = np.array([0.0, 1e-3, 0.01, 0.1, 0.3, 0.6, 0.9])  # of the largest curvature


class GainTrial:
    """A rule, and the curvatures that it is tried on."""

    def __init__(self, rule: AbstractRule, largest_curvature: float):
        self.curvatures = jnp.asarray(largest_curvature * _FRACTIONS, float)
        self.times = jnp.asarray(TRIAL_TIMES, float)
        # Constants are arrays here, which have derivatives.
        dtype = self.curvatures.dtype
        as_array = lambda x: jnp.asarray(x, dtype) if isinstance(x, float) else x
        self.rule = jax.tree.map(as_array, rule)
        self.eps = float(jnp.finfo(dtype).eps)
        # The relative error of a gain that may have been computed by many steps.
        self.tolerance = 10 * self.eps**0.5
        # The relative step of finite differences, whose error is its square.
        self.step = self.eps ** (1 / 3)

    def _all_gains(self, rule: AbstractRule, curvatures: Any) -> np.ndarray:
        times = jnp.asarray((*TRIAL_TIMES, *LATE_TIMES), self.curvatures.dtype)
        curvatures = jnp.broadcast_to(curvatures, self.curvatures.shape)
        curvatures = curvatures.astype(self.curvatures.dtype)
        return np.array(_gains(rule, curvatures, times))

    def gains(self) -> Float[np.ndarray, "times n"]:
        """The gain of each curvature at each time."""
        return self.gains_of(self.curvatures)

    def gains_of(
        self, curvatures: float | Float[Array, "*n"]
    ) -> Float[np.ndarray, "times n"]:
        """The gains of other curvatures, or of one in all places."""
        return self._all_gains(self.rule, curvatures)[: len(TRIAL_TIMES)]

    def late_gains(self) -> Float[np.ndarray, "times n"]:
        """The gains at the late times."""
        return self._all_gains(self.rule, self.curvatures)[len(TRIAL_TIMES) :]

    def near_zero(self, relative: float) -> float:
        """A curvature along which this part of the error is learned at most."""
        largest = max(float(np.max(np.abs(self.gains()[:, 0]))), 1e-6)
        return min(relative / largest, float(self.curvatures[1]))

    def slopes(self, curvatures: float | Array) -> Float[np.ndarray, "times n"]:
        """Derivatives with respect to the curvature."""
        curvatures = jnp.broadcast_to(curvatures, self.curvatures.shape)
        curvatures = curvatures.astype(self.curvatures.dtype)
        return np.asarray(_slopes(self.rule, curvatures, self.times))

    def derivatives(self, t: float) -> tuple[AbstractRule, Array, Array]:
        """Derivatives of the sum of gains in constants, curvatures and the time."""
        time = jnp.asarray(t, self.curvatures.dtype)
        return _derivatives((self.rule, self.curvatures, time))

    def along_constants(self) -> Iterator[tuple[str, float, GainTable, GainTable]]:
        """The name of each constant, a change of it, and what that does to the gains.

        First what it does by the derivative, then by finite differences.
        """
        leaves, tree = jax.tree_util.tree_flatten_with_path(self.rule)
        still = [jnp.zeros_like(x) if eqx.is_array(x) else None for _, x in leaves]
        for i, (path, leaf) in enumerate(leaves):
            if not eqx.is_inexact_array(leaf):
                continue
            change = self.step * jnp.maximum(jnp.abs(leaf), 0.1)
            changes = [*still[:i], change, *still[i + 1 :]]  # all of a vector at once
            tangent = jax.tree.unflatten(tree, changes)
            above, below = (
                self._all_gains(eqx.apply_updates(self.rule, by), self.curvatures)
                for by in (tangent, jax.tree.map(jnp.negative, tangent))
            )
            found = _pushed(self.rule, tangent, self.curvatures, self.times)
            differences = (above - below)[: len(TRIAL_TIMES)] / 2
            name = jax.tree_util.keystr(path)
            yield name, float(jnp.max(change)), found, differences

    def fail(self, message: str) -> NoReturn:
        """Say which rule breaks a law, and how."""
        raise AssertionError(f"{type(self.rule).__name__}: {message}")

    def compare(
        self,
        what: str,
        found: GainTable,
        expected: GainTable,
        scale: GainTable | float,
        times: tuple[float, ...] = TRIAL_TIMES,
        tolerance: float | None = None,
    ) -> None:
        """Fail where two tables differ by more than the tolerance times the scale."""
        tolerance = self.tolerance if tolerance is None else tolerance
        found, expected = np.asarray(found), np.asarray(expected)
        bound = tolerance * np.broadcast_to(np.abs(scale), expected.shape)
        with np.errstate(invalid="ignore"):
            error = np.where(found == expected, 0, np.abs(found - expected))
        wrong = ~(error <= bound)  # also where the error is NaN
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            self.fail(
                f"{what}, at curvature {self.curvatures[at[1]]:.3g} and t = "
                f"{times[at[0]]:g}: {found[at]:.7g} instead of {expected[at]:.7g}, off "
                f"by {error[at]:.3g}, where {bound[at]:.3g} is allowed."
            )


@eqx.filter_jit
def _gains(
    rule: AbstractRule, curvatures: Float[Array, " n"], times: Float[Array, " times"]
) -> Float[Array, "times n"]:
    return jax.vmap(lambda t: rule.gain(curvatures, t))(times)


@eqx.filter_jit
def _slopes(
    rule: AbstractRule, curvatures: Float[Array, " n"], times: Float[Array, " times"]
) -> Float[Array, "times n"]:
    total = lambda curvatures, t: jnp.sum(rule.gain(curvatures, t))
    return jax.vmap(jax.grad(total), (None, 0))(curvatures, times)


@eqx.filter_jit
def _pushed(
    rule: AbstractRule,
    tangent: AbstractRule,
    curvatures: Float[Array, " n"],
    times: Float[Array, " times"],
) -> Float[Array, "times n"]:
    at = lambda rule: _gains(rule, curvatures, times)
    return eqx.filter_jvp(at, (rule,), (tangent,))[1]


@eqx.filter_jit
def _derivatives(
    arguments: tuple[AbstractRule, Float[Array, " n"], Float[Array, ""]],
) -> tuple[AbstractRule, Float[Array, " n"], Float[Array, ""]]:
    return eqx.filter_grad(lambda each: jnp.sum(each[0].gain(*each[1:])))(arguments)
