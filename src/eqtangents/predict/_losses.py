"""Losses of the outputs for all examples, for `GradientDescent`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from eqtangents.predict._arguments import array_argument


def half_mean_squared_error(
    outputs: Float[Array, "*shape"], targets: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """Half the mean of the squared errors: what `GradientDescentMSE` trains on.

    **Raises:** `ValueError` if the shapes differ: they are not broadcast.
    """
    outputs = array_argument("outputs", outputs)
    targets = array_argument("targets", targets, outputs.dtype)
    if outputs.shape != targets.shape:
        raise ValueError(
            f"`outputs` has shape {outputs.shape} and `targets` {targets.shape}, but "
            "both must have the same."
        )
    return jnp.mean((outputs - targets) ** 2) / 2


def cross_entropy(
    outputs: Float[Array, "*batch n_classes"], labels: Shaped[Array, "..."]
) -> Float[Array, ""]:
    """Mean over examples of minus the log probability of the label.

    **Arguments:**

    - `outputs`: log probabilities of the classes, up to a constant.
    - `labels`: classes as integers, or a probability of each (one-hot, say).

    **Raises:** `ValueError` if there is not one label, or one probability of each
    class, for each example.
    """
    outputs = array_argument("outputs", outputs)
    labels = array_argument("labels", labels)
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    batch = outputs.shape[:-1]
    needed = batch if integers else outputs.shape
    if labels.shape != needed:
        raise ValueError(
            f"`labels` has shape {labels.shape} and dtype {labels.dtype}, but "
            f"`outputs` has shape {outputs.shape}: classes as integers, {batch}, "
            f"or probabilities of each class, {outputs.shape}, are needed."
        )
    log_probabilities = jax.nn.log_softmax(outputs)
    if integers:
        labels = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
    return -jnp.mean(jnp.sum(labels * log_probabilities, axis=-1))
