"""Which keys the queries of attention have, and how much each counts."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents._types import Rule, is_integer


Mechanism: TypeAlias = Literal["softmax", "identity", "relu", "abs"]

_DISTANCES = (
    "be `None` for any distance, a number of positions, or a pair of them for each "
    "axis, `((before, after), ...)`"
)


def _is_distance(x: Any) -> bool:
    return x is None or (is_integer(x) and x >= 0)


# How far before and after a query its keys may be; `None` is any distance.
Distances: TypeAlias = Annotated[
    int | Sequence[tuple[int | None, int | None]] | None,
    Rule(
        _DISTANCES,
        lambda x: x is None or isinstance(x, Sequence) or is_integer(x),
        _DISTANCES,
        lambda x: (
            _is_distance(x)
            or all(
                isinstance(pair, Sequence)
                and len(pair) == 2
                and all(map(_is_distance, pair))
                for pair in x
            )
        ),
    ),
]


def within_reach(
    size: tuple[int, ...], reach: Distances
) -> Bool[np.ndarray, "queries keys"] | None:
    """Which keys each query has; `None` if all have all.

    **Raises:** `ValueError` if there are not as many pairs as axes.
    """
    if reach is None:
        return None
    pairs = ((reach, reach),) * len(size) if isinstance(reach, int) else tuple(reach)
    if len(pairs) != len(size):
        raise ValueError(
            f"has `reach={pairs}`, which is for {len(pairs)} spatial axes, but its "
            f"input has {len(size)}."
        )
    near = np.ones((1, 1), bool)
    for n, (before, after) in zip(size, pairs, strict=True):
        later = np.arange(n)[:, None] - np.arange(n)[None]  # the query than the key
        least = -n if after is None else -after
        most = n if before is None else before
        near = np.kron(near, (least <= later) & (later <= most))
    return near


def attended(
    scores: Float[Array, "*heads queries keys"],
    mechanism: Mechanism,
    keys: Bool[Array | np.ndarray, "#queries keys"] | None,
) -> Float[Array, "*heads queries keys"]:
    """The weights of keys, which are zero for those that a query does not have."""
    if keys is not None:
        keys = jnp.broadcast_to(keys, scores.shape)
    if mechanism == "softmax":
        if keys is not None:
            scores = jnp.where(keys, scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores)
    else:
        functions = {"identity": lambda s: s, "relu": jax.nn.relu, "abs": jnp.abs}
        weights = functions[mechanism](scores)
    return weights if keys is None else jnp.where(keys, weights, 0.0)


def weighed(size: tuple[int, ...]) -> Callable[[Array, Array], Array]:
    """How values at the positions of keys are added up, for queries at others."""

    def add_up(
        weights: Float[Array, "queries keys"], values: Float[Array, "*size_in"]
    ) -> Float[Array, "*size"]:
        out = jnp.matmul(weights, values.reshape(-1), precision=lax.Precision.HIGHEST)
        return out.reshape(size)

    return add_up
