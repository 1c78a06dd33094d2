"""The equation of training, solved: at some times, to the end, or at any time."""

from collections.abc import Callable
from typing import Any, TypeAlias

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from eqtangents._types import Scalar
from eqtangents.predict._arguments import one_number, refuse
from eqtangents.predict._training_equation import TrainingEquation
from eqtangents.predict._training_set import TrainingSet
from eqtangents.predict._training_state import (
    Motion,
    TrainingState,
    motion_from_state,
    state_from_motion,
)


_NOT_FOLLOWED = (
    "`t` must be from the time of the state where the trajectory starts to the time "
    "that it was followed to: make it with a later one."
)

_NOT_SOLVED = """
The training was not followed to the end of `t` within `max_steps` steps of the solver.

(a) The learning rate times the largest eigenvalue of the kernel sets the length of a
    step. Very long times need very many: raise `max_steps`, or loosen `rtol`, `atol`.
(b) For the squared error, `GradientDescentMSE` has any time at the same cost.
""".strip()

_NOT_CONVERGED = """
Training did not converge within `max_steps` steps of the solver.

(a) The cross-entropy of examples that can be told apart has no minimum: outputs grow
    for ever. A `weight_decay` above zero gives it one.
(b) Where the kernel has very small eigenvalues, the last of the error takes very long:
    raise `max_steps`, or be content with a larger `tolerance`.
""".strip()

ProgressMeter: TypeAlias = diffrax.AbstractProgressMeter[Any]


class InitialValueProblem(eqx.Module):
    """The equation of training, how it is solved, and from which state on."""

    equation: TrainingEquation
    solver: diffrax.AbstractSolver
    rtol: float
    atol: float
    max_steps: int = eqx.field(static=True)
    start: TrainingState

    def solved(self, **options: Any) -> diffrax.Solution:
        """The solution by diffrax, which may have failed."""
        return diffrax.diffeqsolve(
            diffrax.ODETerm(self.equation.derivative),
            self.solver,
            t0=self.start.time,
            dt0=None,
            y0=motion_from_state(self.equation.data, self.start),
            stepsize_controller=diffrax.PIDController(
                rtol=self.rtol, atol=self.atol, norm=_rms_of_outputs
            ),
            max_steps=self.max_steps,
            throw=False,
            **options,
        )


def states_at(
    problem: InitialValueProblem,
    times: Float[Array, " times"],
    progress: ProgressMeter,
) -> TrainingState:
    """The states at some times that increase.

    **Raises:** `RuntimeError` if the solver takes too many steps.
    """
    states, failed = _states_at(problem, times, progress)
    return refuse(states, (failed, _NOT_SOLVED))


def state_at_rest(
    problem: InitialValueProblem, tolerance: float, progress: ProgressMeter
) -> TrainingState:
    """The state when training has converged.

    **Raises:** `RuntimeError` if the solver takes too many steps.
    """
    state, failed = _state_at_rest(problem, tolerance, progress)
    return refuse(state, (failed, _NOT_CONVERGED))


def trajectory(
    problem: InitialValueProblem, end: Float[Array, ""]
) -> Callable[[Scalar], TrainingState]:
    """The state at any time up to `end`, as a function.

    **Raises:** `RuntimeError` if the solver takes too many steps.
    """
    solution, failed = _interpolant(problem, end)
    solution = refuse(solution, (failed, _NOT_SOLVED))
    first, data = problem.start.time, problem.equation.data
    return eqx.Partial(_state_on_trajectory, data, solution, first, end)


def _state_on_trajectory(
    data: TrainingSet,
    solution: diffrax.Solution,
    first: Float[Array, ""],
    last: Float[Array, ""],
    t: Scalar,
) -> TrainingState:
    """The state at a time of a trajectory, if that goes so far."""
    time = jnp.asarray(one_number("t", t), first.dtype)
    wrong = ~((time >= first) & (time <= last))
    return _interpolated(data, solution, refuse(time, (wrong, _NOT_FOLLOWED)))


# These say whether the solver failed, and leave it to their callers to raise: an error
# from within a compiled function would have that function's traceback.


@eqx.filter_jit
def _states_at(
    problem: InitialValueProblem,
    times: Float[Array, " times"],
    progress: ProgressMeter,
) -> tuple[TrainingState, Bool[Array, ""]]:
    solution = problem.solved(
        t1=times[-1], saveat=diffrax.SaveAt(ts=times), progress_meter=progress
    )
    motions: Any = solution.ys
    states = state_from_motion(problem.equation.data, times, motions)
    return states, solution.result != diffrax.RESULTS.successful


@eqx.filter_jit
def _state_at_rest(
    problem: InitialValueProblem, tolerance: float, progress: ProgressMeter
) -> tuple[TrainingState, Bool[Array, ""]]:
    equation, norm = problem.equation, problem.equation.parameter_norm
    (outputs, weights), _ = motion_from_state(equation.data, problem.start)
    enough = tolerance * norm(equation.force(outputs, weights))

    def at_rest(t: Array, motion: Motion, args: None, **_: object) -> Bool[Array, ""]:
        (outputs, weights), velocities = motion
        rest = norm(equation.force(outputs, weights)) <= enough
        if velocities is None:
            return rest
        return rest & (equation.friction * norm(velocities[1]) <= enough)

    solution = problem.solved(
        t1=jnp.inf, event=diffrax.Event(at_rest), progress_meter=progress
    )
    time, motion = jax.tree.map(lambda x: x[-1], (solution.ts, solution.ys))
    state = state_from_motion(equation.data, time, motion)
    return state, solution.result != diffrax.RESULTS.event_occurred


@eqx.filter_jit
def _interpolant(
    problem: InitialValueProblem, end: Float[Array, ""]
) -> tuple[diffrax.Solution, Bool[Array, ""]]:
    solution = problem.solved(t1=end, saveat=diffrax.SaveAt(dense=True))
    return solution, solution.result != diffrax.RESULTS.successful


@eqx.filter_jit
def _interpolated(
    data: TrainingSet, solution: diffrax.Solution, time: Float[Array, ""]
) -> TrainingState:
    return state_from_motion(data, time, solution.evaluate(time))


def _rms_of_outputs(motion: Motion) -> Float[Array, ""]:
    """Root mean square over outputs and their velocities.

    Weights are left out: where the kernel is almost singular, they are large but do not
    matter.
    """
    (outputs, _), velocities = motion
    squares = jnp.mean(outputs**2)
    if velocities is not None:
        squares = (squares + jnp.mean(velocities[0] ** 2)) / 2
    # Its derivative is wanted at zero too.
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1)), 0)
