"""Gradient descent in steps, of which very many are made by doubling."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from eqtangents._types import Scalar
from eqtangents.predict._arguments import number
from eqtangents.predict._training_rules import (
    AbstractRule,
    checked_rates,
    final_gain,
)


class GradientSteps(AbstractRule):
    r"""Gradient descent in steps, with momentum if wanted.

    On the loss $L$, with weight decay as in `GradientFlow`, each step is

    $$v \leftarrow \beta v + \nabla L(\theta), \qquad
    \theta \leftarrow \theta - \eta v$$

    and Nesterov's momentum takes the step along $\beta v + \nabla L$ instead. This is
    the convention of `optax.sgd`. The gain follows from the same steps,

    $$v \leftarrow \beta v + 1 - (\mu + \gamma) g, \qquad g \leftarrow g + \eta v$$

    from zeros, so that $g_t = (1 - (1 - \eta \mu)^t) / \mu$ without momentum and
    decay. A time is a number of steps, rounded down.
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

        - `learning_rate`: $\eta$. As a vector, the rate of each step; the last one is
            kept.
        - `momentum`: $\beta$, from 0 to 1.
        - `nesterov`: whether the momentum is Nesterov's.
        - `weight_decay`: $\gamma$, of the distance of the parameters from their initial
            values.

        **Raises:** `ValueError` for more axes, `RuntimeError` for numbers out of range.
        """
        self.learning_rate = checked_rates(learning_rate)
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
        state = _many_times(last, state, jnp.maximum(steps - scheduled, 0))
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
        return jnp.where(learning_rate * rate < steepest, final_gain(rate), jnp.inf)


class _State(eqx.Module):
    """The gain of each direction so far, and its velocity."""

    weight: Float[Array, " n"]
    velocity: Float[Array, " n"]


class _Change(eqx.Module):
    """An affine map of states minus the identity.

    One small step may multiply by `1 - 1e-9`, which float32 rounds to 1; storing only
    the increment keeps it.
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


def _many_times(change: _Change, state: _State, times: Int[Array, ""]) -> _State:
    """The state after a change is made `times` times, by doubling it."""
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
