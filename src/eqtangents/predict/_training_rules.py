"""Ways to train on a squared error, each a function of the curvature of the loss."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from eqtangents._types import Scalar
from eqtangents.predict._arguments import as_array, described, in_range, number


class AbstractRule(eqx.Module):
    r"""A way to train; nothing about it matters but its gain.

    Gradient descent on the squared error of a linear model acts on each eigenvector of
    its kernel alone. After training for a time $t$, the part of the error along one of
    them is $1 - \mu g_t(\mu)$ of what it was, where $\mu$ is the eigenvalue over the
    number of target values: the curvature of the loss. A rule is its $g$.
    """

    @abc.abstractmethod
    def gain(self, curvature: Float[Array, " n"], t: Scalar) -> Float[Array, " n"]:
        r"""$g_t(\mu)$ for each $\mu \ge 0$, with $g_0 = 0$, and its limit at $\mu = 0$.

        **Arguments:**

        - `curvature`: $\mu$, of any number of directions.
        - `t`: for how long, from 0 to infinity. At infinity the gain is $1 / \mu$, and
            0 for $\mu = 0$, as nothing is ever seen of those directions.
        """


def _schedule(
    learning_rate: Scalar | Float[Array, " steps"],
) -> Scalar | Float[Array, " steps"]:
    """One learning rate, or a vector of them."""
    if isinstance(learning_rate, float | int):
        return number("learning_rate", learning_rate)
    array = as_array("learning_rate", learning_rate)
    if array.ndim > 1 or not array.size:
        raise ValueError(
            f"`learning_rate` has shape {array.shape}, but it is one number, or a "
            "vector: one for each unit of time."
        )
    return in_range("learning_rate", array)


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
        self.learning_rate = _schedule(learning_rate)
        self.weight_decay = number("weight_decay", weight_decay)

    def gain(self, curvature: Float[Array, " n"], t: Scalar) -> Float[Array, " n"]:
        dtype = curvature.dtype
        rate = curvature + jnp.asarray(self.weight_decay, dtype)
        learning_rate = jnp.asarray(self.learning_rate, dtype)
        t = jnp.asarray(t, dtype)
        if learning_rate.ndim == 0:
            time = learning_rate * t
        else:
            starts = jnp.arange(learning_rate.shape[0], dtype=dtype)
            spent = (
                jnp.clip(t - starts, 0, 1).at[-1].set(jnp.maximum(t - starts[-1], 0))
            )
            time = jnp.sum(learning_rate * spent)
        forever = jnp.isinf(t)
        time = jnp.where(forever, 0, time)
        return jnp.where(forever, _limit(rate), time * _relative_expm1(-time * rate))


FLOW = GradientFlow()


class GradientSteps(AbstractRule):
    r"""Gradient descent in steps, with momentum if wanted.

    Of the loss $L$, with weight decay as in `GradientFlow`,

    $$v \leftarrow \beta v + \nabla L(\theta), \qquad
    \theta \leftarrow \theta - \eta v$$

    and Nesterov's momentum takes the step along $\beta v + \nabla L$ instead. This is
    the convention of `optax.sgd`. A time is a number of steps, rounded down.
    """

    learning_rate: Scalar | Float[Array, " steps"]
    momentum: Scalar
    weight_decay: Scalar
    nesterov: bool = eqx.field(static=True)

    def __init__(
        self,
        learning_rate: Scalar | Float[Array, " steps"] = 1.0,
        *,
        momentum: Scalar = 0.0,
        nesterov: bool = False,
        weight_decay: Scalar = 0.0,
    ):
        r"""Choose the constants.

        **Arguments:**

        - `learning_rate`: $\eta$. As a vector, that of each step; the last one is kept.
        - `momentum`: $\beta$, from 0 to 1.
        - `nesterov`: whether the momentum is Nesterov's.
        - `weight_decay`: $\gamma$, of the distance of the parameters from their initial
            values.

        **Raises:** `ValueError` for more axes, `RuntimeError` for numbers out of range.
        """
        self.learning_rate = _schedule(learning_rate)
        self.momentum = number("momentum", momentum, at_most=1.0)
        self.nesterov = nesterov
        self.weight_decay = number("weight_decay", weight_decay)

    def gain(self, curvature: Float[Array, " n"], t: Scalar) -> Float[Array, " n"]:
        dtype = curvature.dtype
        rate = curvature + jnp.asarray(self.weight_decay, dtype)
        learning_rates = jnp.atleast_1d(jnp.asarray(self.learning_rate, dtype))
        t = jnp.asarray(t, dtype)
        forever = jnp.isinf(t)
        steps = jnp.where(forever, 0, jnp.floor(t)).astype(int)
        scheduled = learning_rates.shape[0] - 1

        def scheduled_step(
            state: _State, step: tuple[Int[Array, ""], Float[Array, ""]]
        ) -> tuple[_State, None]:
            i, learning_rate = step
            return self._step(rate, learning_rate).after(state, i < steps), None

        state = _State(jnp.zeros_like(rate), jnp.zeros_like(rate))
        state, _ = lax.scan(
            scheduled_step, state, (jnp.arange(scheduled), learning_rates[:-1])
        )
        last = self._step(rate, learning_rates[-1])
        state = _repeated(last, state, jnp.maximum(steps - scheduled, 0))
        return jnp.where(forever, self._final(rate, learning_rates[-1]), state.weight)

    def _step(
        self, rate: Float[Array, " n"], learning_rate: Float[Array, ""]
    ) -> "_Change":
        momentum = jnp.asarray(self.momentum, rate.dtype)
        ones = jnp.ones_like(rate)
        # v <- momentum v + 1 - rate w, and w <- w + learning_rate (...).
        new, old = (1 + momentum, momentum**2) if self.nesterov else (1, momentum)
        return _Change(
            -learning_rate * new * rate,
            learning_rate * old * ones,
            -rate,
            (momentum - 1) * ones,
            learning_rate * new * ones,
            ones,
        )

    def _final(
        self, rate: Float[Array, " n"], learning_rate: Float[Array, ""]
    ) -> Float[Array, " n"]:
        momentum = jnp.asarray(self.momentum, rate.dtype)
        steepest = 2 * (1 + momentum)
        if self.nesterov:
            steepest = steepest / (1 + 2 * momentum)
        return jnp.where(learning_rate * rate < steepest, _limit(rate), jnp.inf)


class _State(eqx.Module):
    """Of each direction, what the weight gained and its velocity."""

    weight: Float[Array, " n"]
    velocity: Float[Array, " n"]


class _Change(eqx.Module):
    """An affine map of states, less the identity.

    So that what many small steps do, each hardly more than nothing, is not lost in
    rounding.
    """

    ww: Float[Array, " n"]
    wv: Float[Array, " n"]
    vw: Float[Array, " n"]
    vv: Float[Array, " n"]
    w: Float[Array, " n"]
    v: Float[Array, " n"]

    def after(self, state: _State, happens: Array) -> _State:
        w, v = state.weight, state.velocity
        return _State(
            w + jnp.where(happens, self.ww * w + self.wv * v + self.w, 0),
            v + jnp.where(happens, self.vw * w + self.vv * v + self.v, 0),
        )

    def twice(self) -> "_Change":
        a, b, c, d, w, v = self.ww, self.wv, self.vw, self.vv, self.w, self.v
        return _Change(
            2 * a + a * a + b * c,
            2 * b + a * b + b * d,
            2 * c + c * a + d * c,
            2 * d + c * b + d * d,
            2 * w + a * w + b * v,
            2 * v + c * w + d * v,
        )


def _repeated(change: _Change, state: _State, times: Int[Array, ""]) -> _State:
    """The state after so many changes, by doubling them."""
    bits = jnp.iinfo(times.dtype).bits - 1

    def double(
        carry: tuple[_Change, _State], bit: Int[Array, ""]
    ) -> tuple[tuple[_Change, _State], None]:
        change, state = carry
        state = change.after(state, (times >> bit) & 1 == 1)
        # Beyond the last bit nothing is used: keep it from overflowing.
        more = times >> bit > 1
        doubled = jax.tree.map(
            lambda new, old: jnp.where(more, new, old), change.twice(), change
        )
        return (doubled, state), None

    # All powers of one map commute, so the order of the bits is free.
    (_, state), _ = lax.scan(
        double, (change, state), jnp.arange(bits, dtype=times.dtype)
    )
    return state


def check_rule(rule: object) -> None:
    """Raise unless this is a way to train."""
    if not isinstance(rule, AbstractRule):
        raise TypeError(
            f"`rule` is {described(rule)}, but a `GradientFlow` or a `GradientSteps` "
            "is needed, which has the learning rate."
        )


def _limit(rate: Float[Array, " n"]) -> Float[Array, " n"]:
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
