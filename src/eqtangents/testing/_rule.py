"""Laws of a rule of training: what every gain obeys, and what it stands for."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents.predict import AbstractRule
from eqtangents.predict._training_rules import check_is_rule
from eqtangents.testing._gain_trial import LATE_TIMES, TRIAL_TIMES, GainTrial


Velocity: TypeAlias = Callable[
    [Float[Array, ""], Float[Array, " n"], Float[Array, " n"]], Float[Array, " n"]
]


@runtime_checkable
class Optimiser(Protocol):
    """A pair of functions, as optimisers of `optax` are."""

    def init(self, params: Any, /) -> Any:
        """The state before the first step."""
        ...

    def update(self, updates: Any, state: Any, params: Any, /) -> tuple[Any, Any]:
        """What is added to parameters with these gradients, and the next state."""
        ...


def check_rule(
    rule: AbstractRule,
    *,
    largest_curvature: float = 1.0,
    monotone: bool = True,
    optimiser: Optimiser | None = None,
    velocity: Velocity | None = None,
) -> None:
    r"""Raise unless a rule of training obeys the laws of a gain.

    1. The gain is computed entry by entry, in the shape and dtype of the curvatures,
       for times that are traced as for others.
    2. $g_0 = 0$, and gains are finite at any finite time.
    3. $g_t(0)$ is the limit of $g_t(\mu)$ for $\mu \to 0$.
    4. $g_\infty(\mu)$ is the limit of $g_t(\mu)$ for $t \to \infty$, and
       $g_\infty(0)$ is finite.
    5. If the rule is monotone, $0 \le \mu g_t(\mu) \le 1$, and $g_t$ never falls.
    6. Derivatives with respect to curvature, time and constants are finite, also at
       curvature zero, time zero and time infinity. Those with respect to curvature and
       constants agree with finite differences.
    7. The gain agrees with the optimiser, or with the differential equation, that the
       rule stands for, on the losses
       $\tfrac12 (\sqrt\mu \, \theta - 1)^2$ from $\theta = 0$, where
       $\theta_t = \sqrt\mu \, g_t(\mu)$.

    **Arguments:**

    - `rule`: the rule.
    - `largest_curvature`: a curvature up to which the training is stable; gains are
        compared from zero up to it.
    - `monotone`: whether the error never grows and never changes its sign, as in a flow
        without momentum. Momentum and large steps overshoot.
    - `optimiser`: the optimiser whose steps the rule stands for, with the functions
        `init(parameters)` and `update(gradients, state, parameters)` of optax. A time
        is a number of steps.
    - `velocity`: the right-hand side of the differential equation that the rule stands
        for, `velocity(t, parameters, gradients)`.

    **Raises:** `AssertionError` that says which law is broken, where and by how much;
    `TypeError` for what is no rule.

    Call it in both precisions: differences are a sharper test in float64. A limit at
    infinity is compared where the gain has settled by $t = 10^9$.
    """
    check_is_rule(rule)
    trial = GainTrial(rule, largest_curvature)
    _check_form(trial, rule)
    _check_start(trial)
    _check_zero_curvature(trial)
    _check_end(trial)
    if monotone:
        _check_monotone(trial)
    _check_finite_derivatives(trial)
    _check_slopes(trial)
    _check_constants(trial)
    if optimiser is not None:
        _check_optimiser(trial, optimiser)
    if velocity is not None:
        _check_velocity(trial, velocity)


def _check_form(trial: GainTrial, rule: AbstractRule) -> None:
    curvatures = trial.curvatures
    known = rule.gain(curvatures, TRIAL_TIMES[-1])
    if (known.shape, known.dtype) != (curvatures.shape, curvatures.dtype):
        trial.fail(
            f"the gain of {curvatures.shape} curvatures in {curvatures.dtype} has "
            f"shape {known.shape} and dtype {known.dtype}."
        )
    try:
        gains = trial.gains()
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        trial.fail(
            "the gain needs the value of `t`, which may be traced: choose by "
            "`jnp.where`, not by `if`."
        )
    what = "the gain of a time that is traced differs from that of a number"
    trial.compare(what, gains[-1:], known[None], known[None], TRIAL_TIMES[-1:])
    alone = [trial.gains_of(one)[:, 0] for one in curvatures]
    what = "the gain of one curvature alone differs from its gain among others"
    trial.compare(what, jnp.stack(alone, 1), gains, gains)


def _check_start(trial: GainTrial) -> None:
    gains = trial.gains()
    what = "the gain is not finite"
    trial.compare(what, gains, np.where(np.isfinite(gains), gains, 0), 1.0)
    what = "the gain before any training is not 0"
    trial.compare(what, gains[:1], 0 * gains[:1], gains[1:2])


def _check_zero_curvature(trial: GainTrial) -> None:
    near = trial.near_zero(trial.eps**0.5)
    limit = trial.gains_of(near)[:, :1]
    what = f"the gain is not continuous: it is compared with that at {near:.3g}"
    trial.compare(what, trial.gains()[:, :1], limit, limit)


def _check_end(trial: GainTrial) -> None:
    late, later, end = trial.late_gains()
    if not np.isfinite(end[0]):
        trial.fail(
            f"the gain at curvature 0 and t = inf is {end[0]}, but must be finite: 0 "
            "where there is no limit."
        )
    with np.errstate(invalid="ignore"):
        moving = np.abs(later - late) > trial.tolerance / 100 * np.abs(later)
    moving[0] |= end[0] == 0
    limit = np.where(moving, end, later)[None]
    what = f"the gain is not its limit, which is reached by t = {LATE_TIMES[1]:g}"
    trial.compare(what, end[None], limit, limit, LATE_TIMES[2:])


def _check_monotone(trial: GainTrial) -> None:
    gains = trial.gains()
    before = np.maximum.accumulate(gains)
    trial.compare("the gain has fallen with time", gains, before, before)
    learned = np.asarray(trial.curvatures)[None] * gains
    what = "more than all of the error is learned"
    trial.compare(what, learned, np.minimum(learned, 1), 1.0)


def _check_finite_derivatives(trial: GainTrial) -> None:
    for t in (*TRIAL_TIMES, np.inf):
        names = ("its constants", "the curvature", "time")
        for name, derivative in zip(names, trial.derivatives(t), strict=True):
            for leaf in jax.tree.leaves(derivative):
                if not np.isfinite(leaf).all():
                    trial.fail(
                        f"the derivative with respect to {name} is not finite at "
                        f"t = {t:g}: {leaf}. A `jnp.where` does not keep NaN from "
                        "derivatives: replace what is divided by, too."
                    )


def _check_slopes(trial: GainTrial) -> None:
    curvatures, gains = trial.curvatures, trial.gains()
    change = (trial.step * curvatures).at[0].set(1)
    above = trial.gains_of(curvatures + change)
    below = trial.gains_of(curvatures - change)
    differences = (above - below) / (2 * np.asarray(change)[None])
    # At zero there is one side only: the slope must be continuous.
    differences[:, :1] = trial.slopes(trial.near_zero(trial.step**2))[:, :1]
    scale = np.append(gains[:, :1] ** 2, gains[:, 1:] / curvatures[None, 1:], axis=1)
    what = "the derivative with respect to the curvature"
    found = trial.slopes(curvatures)
    trial.compare(what, found, differences, scale, tolerance=3 * trial.step)


def _check_constants(trial: GainTrial) -> None:
    scale = 1 + trial.gains() ** 2
    for path, change, found, differences in trial.along_constants():
        what = f"the derivative with respect to `rule{path}`"
        bound = change * scale
        trial.compare(what, found, differences, bound, tolerance=3 * trial.step)


def _check_optimiser(trial: GainTrial, optimiser: Optimiser) -> None:
    roots = jnp.sqrt(trial.curvatures)

    @eqx.filter_jit
    def step(parameters: Array, state: Any) -> tuple[Array, Any]:
        gradients = roots * (roots * parameters - 1)
        updates, state = optimiser.update(gradients, state, parameters)
        return parameters + updates, state

    parameters, steps = [jnp.zeros_like(roots)], range(int(TRIAL_TIMES[-1]) + 1)
    state = optimiser.init(parameters[0])
    for _ in steps[1:]:
        following, state = step(parameters[-1], state)
        parameters.append(following)
    trained = jnp.stack([parameters[int(t)] for t in TRIAL_TIMES])
    found = roots[None] * trial.gains()
    what = "parameters that differ from those of the optimiser"
    trial.compare(what, found, trained, 1 + jnp.abs(trained))


def _check_velocity(trial: GainTrial, velocity: Velocity) -> None:
    roots, accuracy = jnp.sqrt(trial.curvatures), max(trial.eps**0.75, 1e-11)

    def derivative(t: Any, parameters: Array, args: None) -> Array:
        del args
        return velocity(t, parameters, roots * (roots * parameters - 1))

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(derivative),
        diffrax.Tsit5(),
        *(0.0, TRIAL_TIMES[-1], None),
        jnp.zeros_like(roots),
        stepsize_controller=diffrax.PIDController(accuracy, accuracy),
        saveat=diffrax.SaveAt(ts=trial.times),
        max_steps=100_000,
    )
    trained: Any = solution.ys
    found = roots[None] * trial.gains()
    what = "parameters that differ from the solution of the differential equation"
    trial.compare(what, found, trained, 1 + jnp.abs(trained))
