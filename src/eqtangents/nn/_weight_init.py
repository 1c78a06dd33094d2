"""How weights are drawn, at variance one."""

import math
from typing import Annotated, Literal, TypeAlias

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import Rule


_WEIGHT_INITS = 'be "normal" or "orthogonal"'
WeightInit: TypeAlias = Annotated[
    Literal["normal", "orthogonal"],
    Rule(
        _WEIGHT_INITS,
        lambda x: isinstance(x, str),
        f"{_WEIGHT_INITS}; delta-orthogonal weights are orthogonal ones of a "
        "convolution with `tap_variances=(0, 1, 0)`, say",
        lambda x: x.lower() in ("normal", "orthogonal"),
    ),
]


def drawn_weights(
    init: WeightInit, shape: tuple[int, ...], groups: int, key: PRNGKeyArray
) -> Float[Array, "out in *rest"]:
    """Weights whose entries have mean zero and variance one.

    Orthogonal ones are uniformly distributed matrices with orthogonal rows or columns,
    whichever are fewer; independent ones for each group of channels and each of the
    last axes.
    """
    if init == "normal":
        return jr.normal(key, shape)
    out, inputs, *rest = shape
    rows = out // groups
    matrices = jr.orthogonal(key, rows, (groups, *rest), m=inputs)
    weights = jnp.moveaxis(matrices, (-2, -1), (1, 2)).reshape(shape)
    return math.sqrt(max(rows, inputs)) * weights
