"""Self-attention over all positions, or those within reach."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqtangents._types import Count, NonNegative, Scalar, lowered, plain
from eqtangents.covariance import (
    AbstractCovariance,
    Affine,
    BranchProduct,
    Mapped,
    Scope,
    SpatialBroadcast,
    Total,
    dense_block,
)
from eqtangents.nn._embedding import PositionalEmbedding
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._keys import Distances, Mechanism, attended, weighed, within_reach
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    LayerError,
    check_not_vanishing,
    missing_parameters,
    needed_key,
    one_input,
)
from eqtangents.nn._rates import rate_of


class GlobalSelfAttention(AbstractLayer):
    r"""Self-attention over positions, with infinitely many heads in the limit.

    With $\tilde{x}$ the input with its positional embedding, of $\tilde{C}$ channels,
    head $h$ weighs positions by

    $$G_h = \zeta\!\left(\frac{\sigma_Q \sigma_K}{\tilde{C} d^{s}}
    (Q_h \tilde{x})^T (K_h \tilde{x}) \right)$$

    with $d$ the number of key channels and $\zeta$ the `mechanism`, a softmax over keys
    or a function of each entry. With `linear_scaling`, $s = 1$ and $Q_h = K_h$: then
    $G = \zeta(\sigma_Q \sigma_K \tilde{K}(x, x))$ is not random in the limit, and

    $$K' = \sigma_O^2 \sigma_V^2\, G V G'^T + \sigma_b^2, \qquad
    T' = \sigma_O^2 \sigma_V^2\, G V_T G'^T + \sigma_b^2 + 2 (K' - \sigma_b^2)$$

    with $V, V_T$ the kernels of what the values are taken from. With $s = 1/2$ there is
    a closed form for the identity alone:

    $$K' = c^2 \langle \tilde{K}, V \rangle \tilde{K} + \sigma_b^2, \qquad
    c = \sigma_Q \sigma_K \sigma_O \sigma_V.$$

    Masked positions are no keys, and neither are those out of `reach`: their weights
    are zero, and left out of sums.

    **Cost:** the cube of the number of positions, for each pair of examples; keeps all
    pairs of positions in memory, for one tile of examples.

    **Source:** Hron et al. 2020, arXiv:2006.10540, Theorems 3 and 4, section 4.
    """

    query: Float[Array, "heads keys in"] | None
    key: Float[Array, "heads keys in"] | None
    value: Float[Array, "heads values in"] | None
    output: Float[Array, "out heads values"] | None
    bias: Float[Array, " out"] | None
    embedding: Float[Array, "embedded *size"] | None
    positional: PositionalEmbedding | None
    query_std: NonNegative
    key_std: NonNegative
    value_std: NonNegative
    output_std: NonNegative
    bias_std: NonNegative | None
    out_channels: Count = eqx.field(static=True)
    key_channels: Count = eqx.field(static=True)
    value_channels: Count = eqx.field(static=True)
    heads: Count = eqx.field(static=True)
    linear_scaling: bool = eqx.field(static=True)
    mechanism: Mechanism = eqx.field(static=True)
    reach: Distances = eqx.field(static=True)
    rated: ClassVar[frozenset[str]] = frozenset(
        {"query", "key", "value", "output", "bias", "embedding"}
    )

    def __init__(
        self,
        out_channels: Count,
        *,
        key_channels: Count,
        value_channels: Count,
        heads: Count,
        linear_scaling: bool = True,
        mechanism: Mechanism = "softmax",
        reach: Distances = None,
        positional: PositionalEmbedding | None = None,
        query_std: NonNegative = 1.0,
        key_std: NonNegative = 1.0,
        value_std: NonNegative = 1.0,
        output_std: NonNegative = 1.0,
        bias_std: NonNegative | None = None,
    ):
        r"""Describe the layer; `init` draws its parameters.

        **Arguments:**

        - `out_channels`, `key_channels`, `value_channels`, `heads`: sizes of the finite
            network. The kernel does not depend on them.
        - `linear_scaling`: divide by the number of key channels and tie queries to
            keys, or divide by its root.
        - `mechanism`: `"softmax"`, `"identity"`, `"relu"` or `"abs"`.
        - `reach`: how many positions before and after a query its keys may be: one
            number for all axes, or a pair for each, where `None` is any distance.
            `((None, 0),)` is causal attention, `3` is local, and `((3, 0),)` is both.
        - `positional`: an embedding of positions.
        - `query_std`, `key_std`, `value_std`, `output_std`: $\sigma_Q$ to $\sigma_O$.
        - `bias_std`: $\sigma_b$, or `None` for no bias.
        """
        self.query = self.key = self.value = self.output = None
        self.bias = self.embedding = None
        self.positional = positional
        self.query_std, self.key_std = query_std, key_std
        self.value_std, self.output_std, self.bias_std = value_std, output_std, bias_std
        self.out_channels, self.key_channels = plain(out_channels), plain(key_channels)
        self.value_channels, self.heads = plain(value_channels), plain(heads)
        self.linear_scaling, self.mechanism = linear_scaling, lowered(mechanism)
        self.reach = plain(reach)

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "GlobalSelfAttention":
        """Draw weights for inputs of a shape, to which the embedding belongs."""
        key = needed_key(self, key)
        channels, *size = input_shape
        embedding, seen, valued = self.positional, channels, channels
        if embedding is not None:
            seen = embedding.total(channels)
            valued = seen if embedding.on_values else channels
        shapes: dict[str, tuple[int, ...]] = {
            "key": (self.heads, self.key_channels, seen),
            "value": (self.heads, self.value_channels, valued),
            "output": (self.out_channels, self.heads, self.value_channels),
        }
        if not self.linear_scaling:
            shapes["query"] = shapes["key"]
        if self.bias_std is not None:
            shapes["bias"] = (self.out_channels,)
        if embedding is not None:
            shapes["embedding"] = (embedding.count(channels), *size)
        keys = jr.split(key, len(shapes))
        return eqx.tree_at(
            lambda layer: [getattr(layer, name) for name in shapes],
            self,
            [jr.normal(k, s) for k, s in zip(keys, shapes.values(), strict=True)],
            is_leaf=lambda leaf: leaf is None,
        )

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        if self.key is None or self.value is None or self.output is None:
            raise missing_parameters(self)
        inputs, extras = unwrap(x)
        size = inputs.shape[1:]
        seen = inputs
        if self.positional is not None and self.embedding is not None:
            seen = self.positional.embed(inputs, self.embedding)
            inputs = seen if self.positional.on_values else inputs
        inputs, seen = (v.reshape(v.shape[0], -1) for v in (inputs, seen))
        query = self.key if self.query is None else self.query
        power = 1.0 if self.linear_scaling else 0.5
        scale = jnp.asarray(self.query_std * self.key_std, seen.dtype)
        scores = jnp.einsum("hkp,hkq->hpq", query @ seen, self.key @ seen)
        scores = scale / (seen.shape[0] * self.key_channels**power) * scores
        weights = attended(scores, self.mechanism, self._keys(size, extras.mask))
        heads = jnp.einsum("hpq,hvq->hvp", weights, self.value @ inputs)
        scale = jnp.asarray(self.output_std * self.value_std, inputs.dtype)
        scale = scale / math.sqrt(self.heads * self.value_channels * inputs.shape[0])
        out = scale * jnp.einsum("ohv,hvp->op", self.output, heads)
        if self.bias is not None:
            out = out + jnp.asarray(self.bias_std, out.dtype) * self.bias[:, None]
        return extras.rewrap(out.reshape(-1, *size), extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        check_not_vanishing(self, covariance)
        seen = valued = covariance
        if self.positional is not None:
            seen = self.positional.propagate(covariance, rate_of(self.embedding))
            valued = seen if self.positional.on_values else covariance
        if self.linear_scaling:
            return self._weighted(seen, valued)
        if self.mechanism != "identity":
            raise LayerError(
                self,
                f'has no kernel in closed form with `mechanism="{self.mechanism}"` and '
                "`linear_scaling=False`, where the weights stay random. Use "
                '`linear_scaling=True`, or `mechanism="identity"`, or estimate the '
                "kernel by `eqtangents.monte_carlo`.",
            )
        square = (self.query_std * self.key_std) ** 2 * self._output_variance
        overlap = self._summed(BranchProduct([seen, valued]))
        return Affine(
            BranchProduct([overlap, seen]),
            scale=square,
            shift=self._bias_variance,
            weight_gradient=square * self._rate_of("query", "key", "value", "output"),
            bias_gradient=self._bias_variance * rate_of(self.bias),
            channels=self.out_channels,
        )

    def _weighted(
        self, seen: AbstractCovariance, valued: AbstractCovariance
    ) -> AbstractCovariance:
        outline = seen.outline
        size, positions = outline.size, math.prod(outline.size)

        def weights(scope: Scope) -> Float[Array, "n queries keys"]:
            own = dense_block(scope, seen, self_pairs=True).nngp
            scores = own.reshape(own.shape[0], positions, positions)
            scores = jnp.asarray(self.query_std * self.key_std, own.dtype) * scores
            one = lambda s, m: attended(s, self.mechanism, self._keys(size, m))
            return jax.vmap(one)(scores, outline.mask)

        return Affine(
            Mapped(valued, size, weighed(size), weights, mask=outline.mask),
            scale=self._output_variance,
            shift=self._bias_variance,
            weight_gradient=self._output_variance * self._rate_of("value", "output"),
            bias_gradient=self._bias_variance * rate_of(self.bias),
            channels=self.out_channels,
        )

    def _summed(self, products: AbstractCovariance) -> AbstractCovariance:
        """Sums over the keys of both queries."""
        outline = products.outline
        near = self._keys(outline.size, None)
        if near is None:
            return SpatialBroadcast(Total(products), products)

        def move(_: None, values: Float[Array, "*size"]) -> Float[Array, "*size"]:
            flat = jnp.asarray(near, values.dtype) @ values.reshape(-1)
            return flat.reshape(values.shape)

        return Mapped(products, outline.size, move, mask=outline.mask)

    def _keys(
        self, size: tuple[int, ...], mask: Bool[Array, "*size"] | None
    ) -> Bool[Array | np.ndarray, "#queries keys"] | None:
        """Which keys each query has; `None` if all have all."""
        try:
            near = within_reach(size, self.reach)
        except ValueError as error:
            raise LayerError(self, str(error)) from None
        if mask is None:
            return near
        there = mask.reshape(1, -1)
        return there if near is None else there & near

    def _rate_of(self, *names: str) -> Scalar:
        return sum(rate_of(getattr(self, name)) for name in names)

    @property
    def _output_variance(self) -> Scalar:
        return (self.output_std * self.value_std) ** 2

    @property
    def _bias_variance(self) -> Scalar:
        return 0.0 if self.bias_std is None else self.bias_std**2
