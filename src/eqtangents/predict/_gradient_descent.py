"""Training on any loss, by an ordinary differential equation."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from eqtangents._products import einsum
from eqtangents._types import Scalar
from eqtangents.predict._arguments import (
    array_argument,
    check_function,
    finite,
    increasing_times,
    number,
    one_number,
)
from eqtangents.predict._definiteness import refuse_and_mend
from eqtangents.predict._habits import habits_told
from eqtangents.predict._targets import shape_of_outputs
from eqtangents.predict._training_equation import Loss, TrainingEquation
from eqtangents.predict._training_set import TrainingSet
from eqtangents.predict._training_solution import (
    InitialValueProblem,
    ProgressMeter,
    state_at_rest,
    states_at,
    trajectory,
)
from eqtangents.predict._training_state import (
    TrainingState,
    checked_state,
    state_from_motion,
)


_TSIT5 = diffrax.Tsit5()
_SILENT = diffrax.NoProgressMeter()


@habits_told
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
        - `output_shape`: of one example's outputs, if one target has another shape:
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
        solver. Their length is limited by the largest eigenvalue of the kernel. Once, a
        Cholesky factorisation; where that does not tell whether rounding has made
        eigenvalues negative, all eigenvalues.

        **Source:** Lee et al. 2019, arXiv:1902.06720, equations 5 and 6 and section
        "Momentum".
        """
        check_function("loss", loss, "a function of outputs and targets")
        kernel = array_argument("k_train_train", k_train_train)
        y = array_argument("y_train", y_train)
        shape = shape_of_outputs(y, kernel.shape, output_shape)
        data = TrainingSet(kernel, jnp.zeros((*y.shape[:1], *shape), kernel.dtype))
        kernel = refuse_and_mend(data.matrix, "k_train_train")
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

        **Raises:** `ValueError` for a shape that outputs do not have, or a
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
        return state_from_motion(self.data, time, ((columns, nothing), motion))

    def states(
        self,
        t: Scalar | Float[Array, "*times"],
        start: TrainingState | None = None,
        *,
        progress: ProgressMeter = _SILENT,
    ) -> TrainingState:
        """The state at each of some times.

        **Arguments:**

        - `t`: finite times, increasing, in any shape.
        - `start`: the state to start from; outputs of zero if not given.
        - `progress`: how to show it: `diffrax.TextProgressMeter()`, say.

        **Returns:** a state whose arrays have leading axes for `t`.

        **Raises:** `RuntimeError` if times do not increase, or the solver takes too
        many steps.
        """
        problem = self._problem(start, self.max_steps)
        times = self._increasing(t, problem)
        states = states_at(problem, jnp.ravel(times), progress)
        shaped = lambda x: jnp.reshape(x, times.shape + x.shape[1:])
        return jax.tree.map(shaped, states)

    def converged(
        self,
        start: TrainingState | None = None,
        *,
        tolerance: float = 1e-6,
        progress: ProgressMeter = _SILENT,
    ) -> TrainingState:
        """The state at the end of training, and the time when it was reached.

        **Arguments:**

        - `start`: the state to start from; outputs of zero if not given.
        - `tolerance`: what may be left of the norm of the gradient with respect to the
            parameters, relative to that at the start.
        - `progress`: how to show it.

        **Raises:** `RuntimeError` if that takes too many steps, as it does where the
        loss has no minimum.
        """
        problem = self._problem(start, self.max_steps)
        return state_at_rest(problem, tolerance, progress)

    def trajectory(
        self, t: Scalar, start: TrainingState | None = None, *, max_steps: int = 1000
    ) -> Callable[[Scalar], TrainingState]:
        """The state at any time up to `t`, as a function.

        **Arguments:**

        - `t`: until when the equation is solved.
        - `start`: the state to start from; outputs of zero if not given.
        - `max_steps`: of the solver; memory for all of them is taken.

        **Raises:** `RuntimeError` if the solver takes too many steps.
        """
        problem = self._problem(start, max_steps)
        return trajectory(problem, self._increasing(one_number("t", t), problem))

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
        state = checked_state("state", state)
        matrix = self.data.test_train(k_test_train)
        rows, columns = self.data.targets.shape
        times = state.time.shape
        weights = jnp.reshape(state.weights, (*times, rows, columns))
        moved = einsum("ij,...jc->...ic", matrix, weights)
        start = self.data.start("start_test", start_test, matrix.shape[0])
        speed = self.data.start("start_velocity", start_velocity, matrix.shape[0])
        coasted = self._equation().coasted(state.time)
        drift = einsum("...,ic->...ic", coasted, speed)
        start = jnp.broadcast_to(start, moved.shape)
        return self.data.restored(start + drift + moved)

    def _equation(self) -> TrainingEquation:
        return TrainingEquation(
            self.data,
            self.y_train,
            self.loss,
            self.learning_rate,
            self.momentum,
            self.weight_decay,
        )

    def _problem(
        self, start: TrainingState | None, max_steps: int
    ) -> InitialValueProblem:
        start = self.start() if start is None else checked_state("start", start)
        if (self.momentum is None) != (start.outputs_velocity is None):
            raise ValueError(
                "`start` must have velocities if training has momentum, and only then. "
                "Make it with `GradientDescent.start`."
            )
        return InitialValueProblem(
            self._equation(), self.solver, self.rtol, self.atol, max_steps, start
        )

    def _increasing(
        self, t: Scalar | Float[Array, "..."], problem: InitialValueProblem
    ) -> Float[Array, "..."]:
        return increasing_times(t, self.data.kernel.dtype, problem.start.time)
