"""What targets must be: numbers to be learned, or anything that a loss takes."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def check_targets(name: str, y: Shaped[Array, "..."]) -> None:
    """Raise unless these are numbers to be learned."""
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` is {y.dtype}: a floating dtype is needed. For class labels use "
            "`eqtangents.predict.encode_labels(labels, n_classes)`."
        )


def shape_of_outputs(
    y: Shaped[Array, "..."],
    kernel_shape: tuple[int, ...],
    output_shape: tuple[int, ...] | None,
) -> tuple[int, ...]:
    """The shape of one example's outputs, of which a loss takes these targets."""
    if output_shape is None:
        if not jnp.issubdtype(y.dtype, jnp.floating):
            raise ValueError(
                f"`y_train` is {y.dtype}, so the number of outputs cannot be "
                "told from it. For class labels pass `output_shape=(n_classes,)`."
            )
        return y.shape[1:]
    if y.shape[:1] != kernel_shape[:1]:
        raise ValueError(
            f"`y_train` has shape {y.shape}, but `k_train_train` has shape "
            f"{kernel_shape}: both must have as many training examples."
        )
    if not isinstance(output_shape, tuple):
        raise TypeError(
            f"`output_shape` is {output_shape!r}, but a shape is needed, as "
            "`(n_classes,)`."
        )
    return output_shape
