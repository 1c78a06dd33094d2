"""Training on any loss, by an ordinary differential equation."""

from collections.abc import Callable
from typing import Any, TypeAlias

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from eqtangents._types import Scalar
from eqtangents.predict._arguments import (
    as_array,
    check_function,
    described,
    finite,
    number,
    one_number,
    refuse,
)
from eqtangents.predict._definiteness import refuse_beyond_rounding
from eqtangents.predict._training_set import TrainingSet


Loss: TypeAlias = Callable[
    [Float[Array, "..."], Shaped[Array, "..."]], Float[Array, ""]
]

_NOT_INCREASING = (
    "`t` must be finite and increase, from the time of the state where training "
    "starts on: sort it. For the end of training, use `converged`."
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

_TSIT5 = diffrax.Tsit5()
_SILENT = diffrax.NoProgressMeter()


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


# Outputs and weights, and the velocities of both if there is momentum, as columns.
_Matrices: TypeAlias = Float[Array, "*times rows columns"]
_Columns: TypeAlias = tuple[_Matrices, _Matrices]
_Motion: TypeAlias = tuple[_Columns, _Columns | None]


class GradientDescent(eqx.Module):
    r"""Outputs of an infinitely wide network while it is trained on any loss.

    Gradient descent with infinitely small steps on a differentiable loss $L$ moves the
    outputs, with the kernel $\Theta$ (the NTK, if all layers are trained), by

    $$\dot f = -\eta \Theta \nabla L(f), \qquad
    \ddot f = -\eta \Theta \nabla L(f) - (1 - \beta) \dot f$$

    without and with a (heavy-ball) momentum $\beta$. Time counts steps. The equation is
    solved for the training examples once; any test outputs are $f_0^* + \Theta_* w$,
    with the weights $w$ that a state has.

    ```python
    training = GradientDescent(cross_entropy, eqt.ntk(net, x_train), one_hot)
    states = training.states(jnp.linspace(0, 1000, 50))
    outputs = training.test_outputs(states, eqt.ntk(net, x_test, x_train))
    ```
    """

    data: TrainingSet
    y_train: Shaped[Array, " n_train ..."]
    loss: Loss
    learning_rate: Scalar
    momentum: Scalar | None
    weight_decay: Scalar
    solver: diffrax.AbstractSolver
    rtol: float
    atol: float
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        loss: Loss,
        k_train_train: Float[Array, "n_train n_train *positions_twice"],
        y_train: Shaped[Array, " n_train *shape"],
        *,
        output_shape: tuple[int, ...] | None = None,
        learning_rate: Scalar = 1.0,
        momentum: Scalar | None = None,
        weight_decay: Scalar = 0.0,
        solver: diffrax.AbstractSolver = _TSIT5,
        rtol: float = 1e-6,
        atol: float = 1e-6,
        max_steps: int = 100_000,
    ):
        r"""Choose the loss and how to solve the equation.

        **Arguments:**

        - `loss`: a function of the outputs for all training examples and of `y_train`;
            with a mean over examples, a learning rate means what it usually does.
        - `k_train_train`: kernel of the training examples with each other.
        - `y_train`: anything that the loss understands, examples first.
        - `output_shape`: of one example's outputs, if it is not that of `y_train`:
            `(n_classes,)` for class labels.
        - `learning_rate`: $\eta$.
        - `momentum`: $\beta$, or `None` for none.
        - `weight_decay`: of the distance of the parameters from their initial values.
        - `solver`: of diffrax.
        - `rtol`, `atol`: tolerances of a step, for outputs on the training examples
            and, with momentum, their velocities.
        - `max_steps`: of the solver in one call.

        **Raises:** `ValueError` if shapes or dtypes do not fit, `TypeError` for what is
        no function or no array. `RuntimeError` if the kernel or floating targets are
        not finite, if the kernel is not symmetric, or not positive semi-definite beyond
        rounding, or if a constant is out of range.

        **Cost:** about six products of the kernel with the outputs for each step of the
        solver. Their length is limited by the largest eigenvalue of the kernel. Once,
        all eigenvalues: about $4 n^3 / 3$ multiply-adds.

        **Source:** Lee et al. 2019, arXiv:1902.06720, equations 5 and 6 and section
        "Momentum".
        """
        check_function("loss", loss, "a function of outputs and targets")
        kernel = as_array("k_train_train", k_train_train)
        y = as_array("y_train", y_train)
        shape = _output_shape(kernel, y, output_shape)
        data = TrainingSet(kernel, jnp.zeros((*y.shape[:1], *shape), kernel.dtype))
        kernel, more = refuse_beyond_rounding(data.kernel, "k_train_train")
        kernel = kernel + more * jnp.eye(kernel.shape[0], dtype=kernel.dtype)
        self.data = eqx.tree_at(lambda data: data.kernel, data, kernel)
        self.y_train = finite("y_train", y)
        self.loss = loss
        self.learning_rate = number("learning_rate", learning_rate)
        if momentum is not None:
            momentum = number("momentum", momentum, at_most=1.0)
        self.momentum = momentum
        self.weight_decay = number("weight_decay", weight_decay)
        self.solver = solver
        self.rtol = rtol
        self.atol = atol
        self.max_steps = max_steps

    def start(
        self,
        outputs: Scalar | Float[Array, "..."] = 0.0,
        velocity: Scalar | Float[Array, "..."] | None = None,
    ) -> TrainingState:
        """The state before training.

        **Arguments:**

        - `outputs`: initial outputs for the training examples.
        - `velocity`: their initial velocity, if there is momentum; zero if not given.

        **Raises:** `ValueError` for another shape than that of the outputs, or a
        velocity without momentum.
        """
        if velocity is not None and self.momentum is None:
            raise ValueError(
                "`velocity` was given, but training without momentum has none. Pass "
                "`momentum` to `GradientDescent`, if only 0."
            )
        rows = self.data.kernel.shape[0]
        columns = self.data.start("outputs", outputs, rows)
        velocity = 0.0 if velocity is None else velocity
        speed = self.data.start("velocity", velocity, rows)
        nothing = jnp.zeros_like(columns)
        motion = None if self.momentum is None else (speed, nothing)
        time = jnp.zeros((), self.data.kernel.dtype)
        return self._state(time, ((columns, nothing), motion))

    def states(
        self,
        t: Scalar | Float[Array, "*times"],
        start: TrainingState | None = None,
        *,
        progress: diffrax.AbstractProgressMeter[Any] = _SILENT,
    ) -> TrainingState:
        """The state at each of some times.

        **Arguments:**

        - `t`: finite times, increasing, in any shape.
        - `start`: the state to start from; that of zero outputs if not given.
        - `progress`: how to show it: `diffrax.TextProgressMeter()`, say.

        **Returns:** a state whose arrays have leading axes for `t`.

        **Raises:** `RuntimeError` if times do not increase, or the solver takes too
        many steps.
        """
        start = self._checked(start)
        times = self._increasing(t, start)
        flat = jnp.ravel(times)
        motion, failed = _solve(self, flat, start, progress)
        states = self._state(flat, refuse(motion, (failed, _NOT_SOLVED)))
        shaped = lambda x: jnp.reshape(x, times.shape + x.shape[1:])
        return jax.tree.map(shaped, states)

    def converged(
        self,
        start: TrainingState | None = None,
        *,
        tolerance: float = 1e-6,
        progress: diffrax.AbstractProgressMeter[Any] = _SILENT,
    ) -> TrainingState:
        """The state at the end of training, and the time when it was reached.

        **Arguments:**

        - `start`: the state to start from; that of zero outputs if not given.
        - `tolerance`: what may be left of the norm of the gradient with respect to the
            parameters, relative to that at the start.
        - `progress`: how to show it.

        **Raises:** `RuntimeError` if that takes too many steps, as it does where the
        loss has no minimum.
        """
        start = self._checked(start)
        end, failed = _converge(self, start, tolerance, progress)
        return self._state(*refuse(end, (failed, _NOT_CONVERGED)))

    def trajectory(
        self, t: Scalar, start: TrainingState | None = None, *, max_steps: int = 1000
    ) -> Callable[[Scalar], TrainingState]:
        """The state at any time up to `t`, as a function.

        **Arguments:**

        - `t`: until when the equation is solved.
        - `start`: the state to start from; that of zero outputs if not given.
        - `max_steps`: of the solver; memory for all of them is taken.

        **Raises:** `RuntimeError` if the solver takes too many steps.
        """
        start = self._checked(start)
        end = self._increasing(one_number("t", t), start)
        solution, failed = _follow(self, end, start, max_steps)
        solution = refuse(solution, (failed, _NOT_SOLVED))
        return eqx.Partial(_at, self, solution, start.time, end)

    def test_outputs(
        self,
        state: TrainingState,
        k_test_train: Float[Array, "n_test n_train *positions_twice"],
        start_test: Scalar | Float[Array, "..."] = 0.0,
        start_velocity: Scalar | Float[Array, "..."] = 0.0,
    ) -> Float[Array, "..."]:
        """Outputs for other examples, in a state or in many.

        **Arguments:**

        - `state`: of training, with or without leading axes.
        - `k_test_train`: kernel of the test with the training examples.
        - `start_test`: outputs for the test examples at time zero.
        - `start_velocity`: and their velocity, if there is momentum.

        **Returns:** an array `(*times, n_test, *positions, *outputs)`.

        **Raises:** `ValueError` if shapes or dtypes do not fit.
        """
        state = self._checked(state, "state")
        matrix = self.data.test_train(k_test_train)
        rows, columns = self.data.targets.shape
        times = state.time.shape
        weights = jnp.reshape(state.weights, (*times, rows, columns))
        moved = jnp.einsum("ij,...jc->...ic", matrix, weights)
        start = self.data.start("start_test", start_test, matrix.shape[0])
        speed = self.data.start("start_velocity", start_velocity, matrix.shape[0])
        coasted = jnp.einsum("...,ic->...ic", self._coasting(state.time), speed)
        start = jnp.broadcast_to(start, moved.shape)
        return self.data.restored(start + coasted + moved)

    def _checked(
        self, state: TrainingState | None, name: str = "start"
    ) -> TrainingState:
        if state is None and name == "start":
            return self.start()
        if not isinstance(state, TrainingState):
            raise TypeError(
                f"`{name}` is {described(state)}, but a state of training is needed: "
                "`start`, `states(t)` and `converged` give one."
            )
        return state

    def _increasing(
        self, t: Scalar | Float[Array, "..."], start: TrainingState
    ) -> Float[Array, "..."]:
        dtype = self.data.kernel.dtype
        times = as_array("t", t, dtype).astype(dtype)
        steps = jnp.diff(jnp.ravel(times), prepend=start.time[None])
        wrong = ~jnp.all((steps >= 0) & jnp.isfinite(steps))
        return refuse(times, (wrong, _NOT_INCREASING))

    def _coasting(self, time: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """How far an initial velocity of 1 takes without any force."""
        if self.momentum is None:
            return jnp.zeros_like(time)
        friction = 1 - jnp.asarray(self.momentum, time.dtype)
        stopping = jnp.where(friction == 0, 1, friction)
        distance = -jnp.expm1(-stopping * time) / stopping
        return jnp.where(friction == 0, time, distance)

    def _field(self, t: Any, motion: _Motion, args: None) -> _Motion:
        """The derivative of outputs and weights, and of their velocities."""
        del t, args
        (outputs, weights), velocities = motion
        force = self._force(outputs, weights)
        pull = (self.data.kernel @ force, force)
        if velocities is None:
            return pull, None
        friction = 1 - jnp.asarray(self.momentum, outputs.dtype)
        return velocities, jax.tree.map(lambda p, v: p - friction * v, pull, velocities)

    def _force(
        self, outputs: Float[Array, "rows columns"], weights: Float[Array, "n columns"]
    ) -> Float[Array, "rows columns"]:
        dtype = outputs.dtype
        gradient = jax.grad(self.loss)(self.data.restored(outputs), self.y_train)
        decay = jnp.asarray(self.weight_decay, dtype) * weights
        return -jnp.asarray(self.learning_rate, dtype) * (
            self.data.columns(gradient) + decay
        )

    def _state(self, time: Float[Array, "*times"], motion: _Motion) -> TrainingState:
        restore = self.data.restored
        (outputs, weights), velocities = motion
        first, second = (None, None) if velocities is None else map(restore, velocities)
        return TrainingState(time, restore(outputs), restore(weights), first, second)

    def _motion(self, state: TrainingState) -> _Motion:
        columns = self.data.columns
        position = columns(state.outputs), columns(state.weights)
        first, second = state.outputs_velocity, state.weights_velocity
        if first is None or second is None:
            return position, None
        return position, (columns(first), columns(second))


def _diffeqsolve(
    training: GradientDescent, start: TrainingState, **options: Any
) -> diffrax.Solution:
    if (training.momentum is None) != (start.outputs_velocity is None):
        raise ValueError(
            "`start` must have velocities if training has momentum, and only then. "
            "Make it with `GradientDescent.start`."
        )
    return diffrax.diffeqsolve(
        diffrax.ODETerm(training._field),
        training.solver,
        t0=start.time,
        dt0=None,
        y0=training._motion(start),
        stepsize_controller=diffrax.PIDController(
            rtol=training.rtol, atol=training.atol, norm=_norm
        ),
        throw=False,
        **options,
    )


# What follows says whether the solver failed, and leaves it to the caller to raise: an
# error from within a compiled function would have that function's traceback.


@eqx.filter_jit
def _solve(
    training: GradientDescent,
    times: Float[Array, " times"],
    start: TrainingState,
    progress: diffrax.AbstractProgressMeter[Any],
) -> tuple[Any, Bool[Array, ""]]:
    solution = _diffeqsolve(
        training,
        start,
        t1=times[-1],
        saveat=diffrax.SaveAt(ts=times),
        max_steps=training.max_steps,
        progress_meter=progress,
    )
    return solution.ys, solution.result != diffrax.RESULTS.successful


@eqx.filter_jit
def _converge(
    training: GradientDescent,
    start: TrainingState,
    tolerance: float,
    progress: diffrax.AbstractProgressMeter[Any],
) -> tuple[tuple[Float[Array, ""], _Motion], Bool[Array, ""]]:
    friction = 1.0 if training.momentum is None else 1 - training.momentum

    def size(weights: Float[Array, "rows columns"]) -> Float[Array, ""]:
        """Norm of the parameters that have these weights."""
        return jnp.sqrt(
            jnp.maximum(jnp.vdot(weights, training.data.kernel @ weights), 0)
        )

    (outputs, weights), _ = training._motion(start)
    enough = tolerance * size(training._force(outputs, weights))

    def at_rest(t: Array, motion: _Motion, args: None, **_: object) -> Bool[Array, ""]:
        (outputs, weights), velocities = motion
        rest = size(training._force(outputs, weights)) <= enough
        if velocities is None:
            return rest
        return rest & (friction * size(velocities[1]) <= enough)

    solution = _diffeqsolve(
        training,
        start,
        t1=jnp.inf,
        event=diffrax.Event(at_rest),
        max_steps=training.max_steps,
        progress_meter=progress,
    )
    last = jax.tree.map(lambda x: x[-1], (solution.ts, solution.ys))
    return last, solution.result != diffrax.RESULTS.event_occurred


@eqx.filter_jit
def _follow(
    training: GradientDescent,
    end: Float[Array, ""],
    start: TrainingState,
    max_steps: int,
) -> tuple[diffrax.Solution, Bool[Array, ""]]:
    solution = _diffeqsolve(
        training,
        start,
        t1=end,
        saveat=diffrax.SaveAt(dense=True),
        max_steps=max_steps,
    )
    return solution, solution.result != diffrax.RESULTS.successful


def _at(
    training: GradientDescent,
    solution: diffrax.Solution,
    first: Float[Array, ""],
    last: Float[Array, ""],
    t: Scalar,
) -> TrainingState:
    """The state at a time of a trajectory, if that goes so far."""
    time = jnp.asarray(one_number("t", t), first.dtype)
    wrong = ~((time >= first) & (time <= last))
    return _interpolated(training, solution, refuse(time, (wrong, _NOT_FOLLOWED)))


@eqx.filter_jit
def _interpolated(
    training: GradientDescent, solution: diffrax.Solution, time: Float[Array, ""]
) -> TrainingState:
    return training._state(time, solution.evaluate(time))


def _output_shape(
    kernel: Array, y: Array, output_shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The shape of one example's outputs."""
    if output_shape is None:
        if not jnp.issubdtype(y.dtype, jnp.floating):
            raise ValueError(
                f"`y_train` is {y.dtype}, so the number of outputs cannot be "
                "told from it. For class labels pass `output_shape=(n_classes,)`."
            )
        return y.shape[1:]
    if y.shape[:1] != kernel.shape[:1]:
        raise ValueError(
            f"`y_train` has shape {y.shape}, but `k_train_train` has shape "
            f"{kernel.shape}: both must have as many training examples."
        )
    if not isinstance(output_shape, tuple):
        raise TypeError(
            f"`output_shape` is {output_shape!r}, but a shape is needed, as "
            "`(n_classes,)`."
        )
    return output_shape


def _norm(motion: _Motion) -> Float[Array, ""]:
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
