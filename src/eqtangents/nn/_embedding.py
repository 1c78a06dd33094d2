"""Trained embeddings of positions."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._types import (
    Count,
    NonNegative,
    Positive,
    Scalar,
    lowered,
    plain,
)
from eqtangents.covariance import (
    AbstractCovariance,
    BranchSum,
    ChannelConcat,
    PositionValues,
    Scaled,
)
from eqtangents.nn._habits import checked_new


class PositionalEmbedding(eqx.Module):
    r"""Trained values for each position, added to or set beside the input's channels.

    Their covariance over positions is

    $$R_{pp'} = \mathrm{decay}\Big(\sum_a |p_a - p'_a|^{p}\Big)$$

    summed over the spatial axes, or the identity without `decay`.
    """

    kind: Literal["sum", "concat"] = eqx.field(static=True)
    std: NonNegative
    channels: Count | None = eqx.field(static=True)
    decay: Callable[[Float[Array, "..."]], Float[Array, "..."]] | None = eqx.field(
        static=True
    )
    p_norm: Positive = eqx.field(static=True)
    on_values: bool = eqx.field(static=True)

    if not TYPE_CHECKING:  # checkers read `__init__`
        __new__ = checked_new

    def __init__(
        self,
        kind: Literal["sum", "concat"] = "sum",
        *,
        std: NonNegative = 1.0,
        channels: Count | None = None,
        decay: Callable[[Float[Array, "..."]], Float[Array, "..."]] | None = None,
        p_norm: Positive = 2,
        on_values: bool = False,
    ):
        """Describe the embedding.

        **Arguments:**

        - `kind`: `"sum"`: added to the input; `"concat"`: further channels.
        - `std`: the standard deviation of the embedding.
        - `channels`: how many, for `"concat"`; by default as many as the input has.
        - `decay`: a positive definite function of distances, for embeddings that vary
            smoothly; by default embeddings of different positions are
            independent.
        - `p_norm`: the power in the distance.
        - `on_values`: whether the values of attention see the embedding, too, and not
            only its queries and keys.
        """
        self.kind, self.std, self.channels = lowered(kind), std, plain(channels)
        self.decay, self.p_norm, self.on_values = decay, p_norm, on_values

    def __check_init__(self):
        """Raise for channels that a sum cannot have."""
        if self.kind == "sum" and self.channels is not None:
            raise ValueError(
                f"PositionalEmbedding: `channels` is {self.channels}, but embeddings "
                "that are added have as many as the input. Give it for "
                '`kind="concat"` alone.'
            )

    def count(self, channels: int) -> int:
        """The number of embedded channels beside so many of the input."""
        return channels if self.channels is None else self.channels

    def total(self, channels: int) -> int:
        """The number of channels of input and embedding together."""
        return channels + self.count(channels) if self.kind == "concat" else channels

    def covariance(self, size: tuple[int, ...]) -> Float[Array, "*size2"]:
        """$R$, of shape `(*size, *size)`."""
        positions = math.prod(size)
        if self.decay is None:
            return jnp.eye(positions).reshape(*size, *size)
        distance = np.zeros((positions, positions))
        for coordinate in np.indices(size).reshape(len(size), positions):
            apart = np.abs(coordinate[:, None] - coordinate[None])
            distance += np.asarray(apart, float) ** self.p_norm
        return self.decay(jnp.asarray(distance)).reshape(*size, *size)

    def embed(
        self,
        value: Float[Array, "channels *size"],
        embedding: Float[Array, "embedded *size"],
    ) -> Float[Array, "total *size"]:
        """The input with the embedding, given normal numbers."""
        size = value.shape[1:]
        flat = embedding.reshape(embedding.shape[0], -1)
        if self.decay is not None:
            root = jnp.linalg.cholesky(
                self.covariance(size).reshape(flat.shape[1], flat.shape[1])
            )
            flat = flat @ root.T.astype(flat.dtype)
        scaled = jnp.asarray(self.std, value.dtype) * flat.reshape(-1, *size)
        if self.kind == "sum":
            return value + scaled
        return jnp.concatenate([value, scaled])

    def propagate(
        self, covariance: AbstractCovariance, rate: Scalar = 1.0
    ) -> AbstractCovariance:
        """The covariance of the input with the embedding, trained at some rate."""
        outline = covariance.outline
        embedding = PositionValues(
            self.covariance(outline.size),
            covariance,
            self.count(outline.channels),
            rate=rate,
        )
        branches = (covariance, Scaled(embedding, self.std))
        return BranchSum(branches) if self.kind == "sum" else ChannelConcat(branches)
