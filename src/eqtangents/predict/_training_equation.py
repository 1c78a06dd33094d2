"""The differential equation of training on any loss."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from eqtangents._products import matmul
from eqtangents._types import Scalar
from eqtangents.predict._training_set import TrainingSet
from eqtangents.predict._training_state import Motion


Loss: TypeAlias = Callable[
    [Float[Array, "..."], Shaped[Array, "..."]], Float[Array, ""]
]


class TrainingEquation(eqx.Module):
    r"""How outputs and weights move, as columns, with a force on the weights.

    $$F = -\eta (\nabla L(f) + \gamma w), \qquad
    \dot w = F, \quad \dot f = \Theta F$$

    without momentum. With it, these are the second derivatives, less the friction
    $(1 - \beta)$ times the first ones.
    """

    data: TrainingSet
    y_train: Shaped[Array, " n_train ..."]
    loss: Loss
    learning_rate: Scalar
    momentum: Scalar | None
    weight_decay: Scalar

    @property
    def friction(self) -> Scalar:
        r"""$1 - \beta$: how much of a velocity is lost in a unit of time."""
        return 1.0 if self.momentum is None else 1 - self.momentum

    def force(
        self,
        outputs: Float[Array, "rows columns"],
        weights: Float[Array, "rows columns"],
    ) -> Float[Array, "rows columns"]:
        """How the weights are pulled, towards a smaller loss and towards zero."""
        dtype = outputs.dtype
        gradient = jax.grad(self.loss)(self.data.restored(outputs), self.y_train)
        decay = jnp.asarray(self.weight_decay, dtype) * weights
        return -jnp.asarray(self.learning_rate, dtype) * (
            self.data.columns(gradient) + decay
        )

    def derivative(self, t: Any, motion: Motion, args: None) -> Motion:
        """The derivative of outputs and weights, and of their velocities."""
        del t, args
        (outputs, weights), velocities = motion
        force = self.force(outputs, weights)
        pull = (matmul(self.data.matrix, force), force)
        if velocities is None:
            return pull, None
        friction = 1 - jnp.asarray(self.momentum, outputs.dtype)
        return velocities, jax.tree.map(lambda p, v: p - friction * v, pull, velocities)

    def coasted(self, time: Float[Array, "*times"]) -> Float[Array, "*times"]:
        """How far an initial velocity of 1 takes without any force."""
        if self.momentum is None:
            return jnp.zeros_like(time)
        friction = 1 - jnp.asarray(self.momentum, time.dtype)
        stopping = jnp.where(friction == 0, 1, friction)
        distance = -jnp.expm1(-stopping * time) / stopping
        return jnp.where(friction == 0, time, distance)

    def parameter_norm(self, weights: Float[Array, "rows columns"]) -> Float[Array, ""]:
        """Norm of the parameters that have these weights."""
        square = jnp.sum(weights * matmul(self.data.matrix, weights))
        return jnp.sqrt(jnp.maximum(square, 0))
