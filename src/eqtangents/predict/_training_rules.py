"""Ways to train on a squared error, each a function of the curvature of the loss."""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.predict._arguments import array_argument, described, in_range, number


class AbstractRule(eqx.Module):
    r"""A way to train on the squared error, given by its gain $g_t(\mu)$.

    Gradient descent on the squared error of a linear model acts on each eigenvector of
    its kernel separately. Let $\mu$ be the curvature of the loss along one of them: the
    eigenvalue over the number of target values. Training for a time $t$ multiplies the
    error along it by

    $$1 - \mu \, g_t(\mu)$$

    so that a rule of training is its gain. Gradient flow, say, has
    $g_t(\mu) = (1 - e^{-\eta t \mu}) / \mu$. The same says what happens to one
    parameter $\theta$ that starts at zero, with the loss
    $\tfrac12 (\sqrt\mu \, \theta - 1)^2$: it becomes
    $\theta_t = \sqrt\mu \, g_t(\mu)$.

    A rule of your own is a subclass with the method `gain`. Constants that are arrays
    can be differentiated. `eqtangents.testing.check_rule` tries the laws of a gain on
    it, and compares it with the optimiser or the differential equation it stands for.
    """

    @abc.abstractmethod
    def gain(self, curvature: Float[Array, " n"], t: Scalar) -> Float[Array, " n"]:
        r"""The gain $g_t(\mu)$ of each of some directions.

        **Arguments:**

        - `curvature`: $\mu \ge 0$ of each direction.
        - `t`: for how long, from 0 to infinity; it may be traced.

        **Returns:** the gains, entry by entry, in the dtype of `curvature`. They are 0
        at $t = 0$, and have their limits at $\mu = 0$ and at $t = \infty$, which is
        $1 / \mu$ where all is learned in the end. Where there is no finite limit, as at
        both together without a decay of weights, the gain is 0: no output moves in a
        direction without curvature. If the training diverges, it is infinite.
        """


def checked_rates(
    learning_rate: Scalar | Float[Array, " steps"],
) -> Scalar | Float[Array, " steps"]:
    """One learning rate, or a vector of them."""
    if isinstance(learning_rate, float | int):
        return number("learning_rate", learning_rate)
    array = array_argument("learning_rate", learning_rate)
    if array.ndim > 1 or not array.size:
        raise ValueError(
            f"`learning_rate` has shape {array.shape}, but it is one number, or a "
            "vector: one for each unit of time."
        )
    return in_range("learning_rate", array)


def flow_gain(rate: Float[Array, " n"], time: Scalar) -> Float[Array, " n"]:
    r"""The gain of a gradient flow, for rules whose learning rate varies.

    $$g = \frac{1 - e^{-T \rho}}{\rho}$$

    **Arguments:**

    - `rate`: $\rho \ge 0$, the curvature, and the weight decay if there is one.
    - `time`: $T = \int \eta \, dt$, the learning rate times the time, or its integral.

    **Returns:** the gain, with its limits $T$ at $\rho = 0$ and $1 / \rho$ at
    $T = \infty$, and 0 at both together. The derivatives are exact there, too.
    """
    time = jnp.asarray(time, rate.dtype)
    forever = jnp.isinf(time)
    finite = jnp.where(forever, 0, time)
    return jnp.where(
        forever, final_gain(rate), finite * _relative_expm1(-finite * rate)
    )


class GradientFlow(AbstractRule):
    r"""Gradient descent with infinitely small steps: $\dot\theta = -\eta \nabla L$.

    $$g_t(\mu) = \bigl(1 - e^{-\eta t (\mu + \gamma)}\bigr) / (\mu + \gamma)$$

    Steps of gradient descent follow it while `learning_rate` is far below
    `eqtangents.predict.max_learning_rate`.
    """

    learning_rate: Scalar | Float[Array, " times"]
    weight_decay: Scalar

    def __init__(
        self,
        learning_rate: Scalar | Float[Array, " times"] = 1.0,
        *,
        weight_decay: Scalar = 0.0,
    ):
        r"""Choose the constants.

        **Arguments:**

        - `learning_rate`: $\eta$. As a vector, the rate from time 0 to 1, from 1 to 2,
            and so on; the last one is kept.
        - `weight_decay`: $\gamma$, of the distance of the parameters from their initial
            values: $\tfrac\gamma2 \|\theta - \theta_0\|^2$ is added to the loss.

        **Raises:** `ValueError` for more axes, `RuntimeError` for negative numbers.
        """
        self.learning_rate = checked_rates(learning_rate)
        self.weight_decay = number("weight_decay", weight_decay)

    def gain(self, curvature: Float[Array, " n"], t: Scalar) -> Float[Array, " n"]:
        dtype = curvature.dtype
        rate = curvature + jnp.asarray(self.weight_decay, dtype)
        learning_rate = jnp.asarray(self.learning_rate, dtype)
        t = jnp.asarray(t, dtype)
        forever = jnp.isinf(t)
        t = jnp.where(forever, 0, t)
        if learning_rate.ndim == 0:
            time = learning_rate * t
        else:
            starts = jnp.arange(learning_rate.shape[0], dtype=dtype)
            spent = jnp.clip(t - starts, 0, 1)
            spent = spent.at[-1].set(jnp.maximum(t - starts[-1], 0))
            time = jnp.sum(learning_rate * spent)
        return flow_gain(rate, jnp.where(forever, jnp.inf, time))


FLOW = GradientFlow()


def check_is_rule(rule: object) -> None:
    """Raise unless this is a rule of training."""
    if not isinstance(rule, AbstractRule):
        raise TypeError(
            f"`rule` is {described(rule)}, but a `GradientFlow` or a `GradientSteps` "
            "is needed, which has the learning rate."
        )


def final_gain(rate: Float[Array, " n"]) -> Float[Array, " n"]:
    """The gain of training that converges: all is learned that is ever seen."""
    seen = rate > 0
    return jnp.where(seen, 1 / jnp.where(seen, rate, 1), 0)


def _relative_expm1(z: Float[Array, " n"]) -> Float[Array, " n"]:
    """`expm1(z) / z`, 1 at zero, with exact derivatives."""
    small = jnp.abs(z) < 1e-2
    tiny, large = jnp.where(small, z, 0), jnp.where(small, 1, z)
    # Seven terms of the series: the quotient's derivative would be rounding there.
    series = jnp.ones_like(z)
    for k in range(7, 1, -1):
        series = 1 + series * tiny / k
    return jnp.where(small, series, jnp.expm1(large) / large)
