"""Training on the squared error, in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._products import einsum
from eqtangents._types import Scalar
from eqtangents.predict._arguments import checked_times
from eqtangents.predict._definiteness import refuse_learned_rounding
from eqtangents.predict._habits import habits_told
from eqtangents.predict._inverse import NEEDLESS
from eqtangents.predict._noisy_kernel import NoisyKernel
from eqtangents.predict._noisy_operator import NoisyOperator
from eqtangents.predict._spectrum import Spectrum
from eqtangents.predict._training_rules import FLOW, AbstractRule, check_is_rule
from eqtangents.predict._training_set import TrainingSet
from eqtangents.solvers import BlockCG, GramOperator
from eqtangents.solvers._solve import checked_solver


class Gain(eqx.Module):
    """The gain of a rule, as a function of the eigenvalues of a kernel, at some times.

    Along an eigenvalue of zero it is zero at any time: no output moves there, and the
    weights would grow for ever.
    """

    rule: AbstractRule
    times: Float[Array, " times"]
    size: int = eqx.field(static=True)

    def __call__(self, values: Float[Array, " n"]) -> Float[Array, "times n"]:
        def gain(t: Float[Array, ""]) -> Float[Array, " n"]:
            gains = self.rule.gain(values / self.size, t) / self.size
            return jnp.where(values > 0, gains, 0)

        return jax.vmap(gain)(self.times)


class _LearnedAndGain(eqx.Module):
    """The part of the error that has been learned, for each eigenvalue, and the gain.

    First the parts at all times, then the gains.
    """

    gain: Gain

    def __call__(self, values: Float[Array, " n"]) -> Float[Array, "times_twice n"]:
        gains = self.gain(values)
        return jnp.concatenate([einsum("i,ti->ti", values, gains), gains])


@habits_told
class GradientDescentMSE(eqx.Module):
    r"""Outputs of an infinitely wide network while it is trained on the squared error.

    The loss is $L = \frac{1}{2N} \sum (f - y)^2$ over all $N$ target values (examples
    times outputs), so that a learning rate means the same as for
    `jnp.mean((f - y) ** 2) / 2`. Then, with the kernel $\Theta$ (the NTK, if all layers
    are trained) and the gain $g_t$ of the rule,

    $$f_t^* = f_0^* + \Theta_* w_t, \qquad
    w_t = \tfrac1N g_t \! \left(\tfrac1N (\Theta + \sigma^2 I)\right) (y - f_0)$$

    The end of training needs a solve and early times a few products with the matrix.
    Other times need its eigenvectors, which are computed at the first of them. Ask for
    all times in one call: they share most of the work.

    Of an `eqtangents.GramOperator` all answers are iterative, to the `rtol` of the
    `solver`: those at the end by a preconditioned solve, and those at other times by
    Lanczos' method, which has no preconditioner and no derivatives in reverse.

    Everything else is differentiable and works under `jax.jit` and `jax.vmap`. The same
    is true of any linear model, and of a finite network with its empirical NTK while
    that hardly changes.

    ```python
    training = GradientDescentMSE(eqt.ntk(net, x_train), y_train)
    t = jnp.logspace(0, 4, 50)
    outputs = training.test_outputs(t, eqt.ntk(net, x_test, x_train))
    ```
    """

    data: TrainingSet
    noisy_kernel: NoisyKernel | NoisyOperator
    rule: AbstractRule

    def __init__(
        self,
        k_train_train: Float[Array, "n_train n_train *positions_twice"] | GramOperator,
        y_train: Float[Array, " n_train *positions_and_outputs"],
        *,
        rule: AbstractRule = FLOW,
        noise: Scalar | Float[Array, "..."] = 0.0,
        relative_noise: Scalar = 0.0,
        solver: BlockCG | None = None,
    ):
        r"""Factorise the kernel, by Cholesky.

        **Arguments:**

        - `k_train_train`: kernel $\Theta$ of the training examples with each other.
            Where outputs at several positions are correlated, the positions of both
            examples follow: `(n_train, n_train, *positions, *positions)`. Or an
            `eqtangents.GramOperator` with noise of its own.
        - `y_train`: targets, `(n_train, *positions, *outputs)`. Outputs are independent
            and share the kernel.
        - `rule`: how it is trained: `GradientFlow`, `GradientSteps`, or your own
            `AbstractRule`.
        - `noise`: $\sigma^2$ on the diagonal, one for all or one each example. The same
            for all is a weight decay of $\sigma^2 / N$.
        - `relative_noise`: more of it, in units of the kernel's mean diagonal.
        - `solver`: how to solve with an operator; at finite times, how much outputs may
            change at last, and after how many products.

        **Raises:** `ValueError` if the shapes do not fit or a dtype is not floating,
        `TypeError` for what is no array. `RuntimeError` if the kernel or the targets
        are not finite, if the kernel is not symmetric, or not positive semi-definite
        beyond rounding, if a noise is negative, or not large against that rounding.

        **Cost:** $n^3 / 3$ multiply-adds, and $9 n^3$ more at most for eigenvectors,
        where a call needs them or a kernel without noise is nearly singular. Where all
        of $T$ times are early ($\eta t \lambda_{\max} / N$ below about
        $n^2 / 3{,}000$ for ten outputs) or so late that all is learned, a call costs
        less than half of that; with eigenvectors, $T n^2$ for each output.

        **Source:** Jacot et al. 2018, arXiv:1806.07572; Lee et al. 2019,
        arXiv:1902.06720, equations 8 to 11.
        """
        check_is_rule(rule)
        self.data = TrainingSet(k_train_train, y_train, noise, relative_noise)
        self.noisy_kernel = _with_noise(self.data, solver)
        self.rule = rule

    @property
    def spectrum(self) -> Spectrum:
        """Eigenvalues and eigenvectors of the kernel with its noise."""
        return self.noisy_kernel.spectrum

    def train_outputs(
        self,
        t: Scalar | Float[Array, "..."],
        start_train: Scalar | Float[Array, "..."] = 0.0,
    ) -> Float[Array, "..."]:
        """Outputs of the network for the training examples, without any noise.

        **Arguments:**

        - `t`: times (numbers of steps), from 0 to infinity, in any order and shape.
        - `start_train`: initial outputs for the training examples, zero if not given,
            as they are on average.

        **Returns:** outputs in the shape of the targets, after axes for `t`.

        **Raises:** `ValueError` if `start_train` has another shape than the targets.
        `RuntimeError` if training without noise would have learned of rounding by then:
        of directions whose eigenvalue may be zero or may be not.
        """
        start = self._start(start_train)
        return self._restored(_train_columns(self, self.times(t), start), t)

    def test_outputs(
        self,
        t: Scalar | Float[Array, "..."],
        k_test_train: Float[Array, "n_test n_train *positions_twice"] | GramOperator,
        start_train: Scalar | Float[Array, "..."] = 0.0,
        start_test: Scalar | Float[Array, "..."] = 0.0,
    ) -> Float[Array, "..."]:
        r"""Outputs for other examples.

        **Arguments:**

        - `t`: times (numbers of steps), from 0 to infinity, in any order and shape.
        - `k_test_train`: kernel $\Theta_*$ of the test with the training examples.
        - `start_train`, `start_test`: initial outputs, zero if not given, as they are
            on average.

        **Returns:** an array `(*t, n_test, *positions, *outputs)`.

        **Raises:** `ValueError` if shapes or dtypes do not fit; `RuntimeError` as
        `train_outputs` does.
        """
        weights = _weights(self, self.times(t), self._start(start_train))
        # Side by side, as an operator may compute its entries for all of them.
        columns = jnp.moveaxis(weights, 0, 1).reshape(weights.shape[1], -1)
        moved = self.data.test_times(k_test_train, columns)
        outputs = moved.reshape(moved.shape[0], -1, weights.shape[2])
        outputs = jnp.moveaxis(outputs, 1, 0)
        start_test = self.data.start("start_test", start_test, moved.shape[0])
        return self._restored(start_test[None] + outputs, t)

    def weights(
        self,
        t: Scalar | Float[Array, "..."],
        start_train: Scalar | Float[Array, "..."] = 0.0,
    ) -> Float[Array, "..."]:
        r"""$w_t$: by how much each training target moves the output of any example.

        They have the shape of `train_outputs`. In parameters,
        $\theta_t = \theta_0 + \nabla_\theta f_0^\top w_t$. Along directions in which no
        output moves (where eigenvalues are zero) it is zero too.
        """
        start = self._start(start_train)
        return self._restored(_weights(self, self.times(t), start), t)

    def _start(
        self, start_train: Scalar | Float[Array, "..."]
    ) -> Float[Array, "rows columns"]:
        rows = self.data.kernel.shape[0]
        return self.data.start("start_train", start_train, rows)

    def times(self, t: Scalar | Float[Array, "..."]) -> Float[Array, " times"]:
        """Times as a vector, if nothing has been learned of rounding by then."""
        times = jnp.ravel(checked_times(t, self.data.kernel.dtype))
        if isinstance(self.noisy_kernel, NoisyOperator):
            return times  # it has noise
        learned = _learned_rounding(self, times)
        return refuse_learned_rounding(times, learned, self.data.matrix)

    def _restored(
        self,
        columns: Float[Array, "times rows columns"],
        t: Scalar | Float[Array, "..."],
    ) -> Float[Array, "..."]:
        outputs = self.data.restored(columns)
        return jnp.reshape(outputs, np.shape(t) + outputs.shape[1:])

    def gain(self, times: Float[Array, " times"]) -> Gain:
        """The gain of the rule, as a function of the kernel's eigenvalues."""
        return Gain(self.rule, times, max(self.data.size, 1))


@eqx.filter_jit
def _learned_rounding(
    training: GradientDescentMSE, times: Float[Array, " times"]
) -> Float[Array, " times"]:
    """The part of the error that is learned along an eigenvalue of rounding's size."""
    rounding = training.noisy_kernel.rounding
    return training.gain(times)(rounding[None])[:, 0] * rounding


def _weights(
    training: GradientDescentMSE,
    times: Float[Array, " times"],
    start: Float[Array, "rows columns"],
) -> Float[Array, "times rows columns"]:
    error = training.data.targets - start
    return training.noisy_kernel.apply(training.gain(times), error)


def _train_columns(
    training: GradientDescentMSE,
    times: Float[Array, " times"],
    start: Float[Array, "rows columns"],
) -> Float[Array, "times rows columns"]:
    # Not the kernel times the weights: these grow with time where the kernel is almost
    # singular, and rounding would with them.
    both = _LearnedAndGain(training.gain(times))
    found = training.noisy_kernel.apply(both, training.data.targets - start)
    outputs, weights = found[: times.shape[0]], found[times.shape[0] :]
    spurious = einsum("i,tic->tic", training.data.noise[:, 0], weights)
    return start[None] + outputs - spurious


def _with_noise(
    data: TrainingSet, solver: BlockCG | None
) -> NoisyKernel | NoisyOperator:
    """The kernel with its noise, factorised.

    **Raises:** `ValueError` if the noise differs between outputs.
    """
    if isinstance(data.kernel, GramOperator):
        return NoisyOperator(data.kernel, checked_solver(solver))
    if solver is not None:
        raise ValueError(NEEDLESS)
    if data.noise.shape[1] != 1:
        raise ValueError(
            "`noise` differs between outputs, but training dynamics have one "
            "factorisation for all of them. Use one for each output, or a "
            "`GaussianProcess`."
        )
    return NoisyKernel(data.kernel, data.noise[:, 0])
