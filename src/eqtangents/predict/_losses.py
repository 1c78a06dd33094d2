"""Losses of the outputs for all examples, for `GradientDescent`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


def half_mean_squared_error(
    outputs: Float[Array, "*shape"], targets: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """Half the mean of the squared errors: what `GradientDescentMSE` trains on."""
    return jnp.mean((outputs - targets) ** 2) / 2


def cross_entropy(
    outputs: Float[Array, "*batch n_classes"], labels: Shaped[Array, "..."]
) -> Float[Array, ""]:
    """Mean over examples of minus the log probability of the label.

    **Arguments:**

    - `outputs`: log probabilities of the classes, up to a constant.
    - `labels`: classes as integers, or a probability of each (one-hot, say).
    """
    log_probabilities = jax.nn.log_softmax(outputs)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    return -jnp.mean(jnp.sum(labels * log_probabilities, axis=-1))
