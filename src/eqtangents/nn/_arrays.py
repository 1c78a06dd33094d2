"""Arrays out of what users have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from eqtangents._arguments import described


def as_input_array(owner: str, name: str, value: Any) -> Array:
    """An array of JAX; what cannot become one is refused."""
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # of lists of different lengths
        array = np.asarray(None)
    if isinstance(value, np.ndarray | list | tuple) and array.dtype.kind in "biuf":
        return jnp.asarray(array)
    raise TypeError(
        f"{owner}: `{name}` is {described(value)}, but must be an array. Examples of "
        "different sizes become one by `nn.Masked.pad(list of arrays)`."
    )


def examples_of(sequences: Any) -> list[Array]:
    """Arrays of one number of channels."""
    if isinstance(sequences, jax.Array | np.ndarray):
        sequences = list(sequences) if sequences.ndim else []
    if not isinstance(sequences, list | tuple) or not sequences:
        raise TypeError(
            f"Masked.pad: takes a list of arrays `(channels, *spatial)`, but was given "
            f"{described(sequences)}."
        )
    arrays = [
        as_input_array("Masked.pad", f"sequences[{i}]", s)
        for i, s in enumerate(sequences)
    ]
    shapes = list(dict.fromkeys(array.shape for array in arrays))
    dtypes = {array.dtype for array in arrays}
    if any(len(shape) < 2 for shape in shapes):
        raise ValueError(
            f"Masked.pad: shapes are {shapes}, but channels come first and positions "
            "after them, `(channels, *spatial)`. With a single channel, pass `s[None]`."
        )
    if len({(shape[0], len(shape)) for shape in shapes}) > 1:
        last = len({shape[-1] for shape in shapes}) == 1
        raise ValueError(
            f"Masked.pad: shapes are {shapes}, but all must have as many channels and "
            "axes, `(channels, *spatial)`."
            + (" Channels come first: pass `s.T`, say." if last else "")
        )
    if len(dtypes) > 1:
        raise ValueError(
            f"Masked.pad: dtypes are {sorted(map(str, dtypes))}, but a batch has one."
        )
    return arrays
