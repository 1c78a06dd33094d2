"""Where training by an ordinary differential equation is, for users and for solvers."""

from typing import TypeAlias

import equinox as eqx
from jaxtyping import Array, Float

from eqtangents._arguments import described
from eqtangents.predict._training_set import TrainingSet


class TrainingState(eqx.Module):
    r"""Where training is at some time, or, with leading axes, at many.

    Outputs of other examples follow from `weights`: see
    `GradientDescent.test_outputs`. Training resumes from a state as it is.
    """

    time: Float[Array, "*times"]
    outputs: Float[Array, "..."]  # for the training examples
    weights: Float[Array, "..."]  # how much each example was learned from
    outputs_velocity: Float[Array, "..."] | None  # with momentum, per unit of time
    weights_velocity: Float[Array, "..."] | None


Columns: TypeAlias = Float[Array, "*times rows columns"]
# Of the outputs for the training examples, and of the weights.
OutputsAndWeights: TypeAlias = tuple[Columns, Columns]
# The two, and their velocities if there is momentum: what the solver moves.
Motion: TypeAlias = tuple[OutputsAndWeights, OutputsAndWeights | None]


def state_from_motion(
    data: TrainingSet, time: Float[Array, "*times"], motion: Motion
) -> TrainingState:
    """The state as users see it, in the shape of the targets."""
    restore = data.restored
    (outputs, weights), velocities = motion
    first, second = (None, None) if velocities is None else map(restore, velocities)
    return TrainingState(time, restore(outputs), restore(weights), first, second)


def motion_from_state(data: TrainingSet, state: TrainingState) -> Motion:
    """The state as the solver moves it, in columns."""
    position = data.columns(state.outputs), data.columns(state.weights)
    first, second = state.outputs_velocity, state.weights_velocity
    if first is None or second is None:
        return position, None
    return position, (data.columns(first), data.columns(second))


def checked_state(name: str, state: TrainingState) -> TrainingState:
    """The same state, if it is one."""
    if not isinstance(state, TrainingState):
        raise TypeError(
            f"`{name}` is {described(state)}, but a state of training is needed: "
            "`start`, `states(t)` and `converged` give one."
        )
    return state
