"""Attention without weights: of queries, keys and values that other layers give."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqtangents._types import Count, Scalar, lowered, plain
from eqtangents.covariance import (
    AbstractCovariance,
    Mapped,
    Scope,
    dense_block,
    uncorrelated,
)
from eqtangents.nn._dot_general import FixedArray, FrozenArray
from eqtangents.nn._inputs import Signal, unwrap
from eqtangents.nn._keys import Distances, Mechanism, attended, weighed, within_reach
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    LayerError,
    check_not_vanishing,
    many_inputs,
)


class Attend(AbstractParameterless):
    r"""Attention of queries $q$ to keys $k$ with values $v$, its three inputs.

    With $d$ channels of queries and keys in each head,

    $$y_p = \sum_{p'} G_{pp'} v_{p'}, \qquad
    G = \zeta\Big(\frac{c}{d}\, q^T k + B\Big)$$

    where $\zeta$ is the `mechanism`, a softmax over keys or a function of each entry,
    $c$ the `scale`, and $B$ a constant `bias`. Products that are divided by $d$, and
    not by its root, have a limit that is not random: $c K_q(x, x)$ if queries are keys,
    and zero if these are uncorrelated, as outputs of two layers with weights are. So

    $$K' = G V G'^T, \qquad T' = G V_T G'^T$$

    with the kernels $V, V_T$ of the values. Queries and keys of one layer attend to
    what is like them. Those of two layers attend to all keys alike, at initialisation
    and, as far as the tangent kernel tells, in training: what remains is $B$.

    Weights are those of the layers around it, in any parameterisation: this is
    `GlobalSelfAttention` with `linear_scaling`, in parts, and with keys and values of
    another branch cross-attention. All keys have one number of positions, and queries
    may have another. Masked keys have the weight zero; outputs are masked as queries
    are.

    ```python
    import jax.random as jr

    import eqtangents as eqt
    from eqtangents import nn

    project = lambda: nn.Linear(64, parameterization="standard")
    net = nn.Wiring(
        [project(), project(), nn.Attend(heads=4, reach=((None, 0),)), project()],
        [[0], [0], [1, 1, 2], [3]],  # one layer gives queries and keys
    )
    kernel = eqt.kernel(net, jr.normal(jr.key(0), (3, 5, 7)))
    ```

    **Cost:** as `GlobalSelfAttention`.

    **Source:** Hron et al. 2020, arXiv:2006.10540, section 4.
    """

    scale: Scalar
    heads: Count = eqx.field(static=True)
    mechanism: Mechanism = eqx.field(static=True)
    reach: Distances = eqx.field(static=True)
    bias: FrozenArray | None = eqx.field(static=True)

    def __init__(
        self,
        *,
        scale: Scalar = 1.0,
        heads: Count = 1,
        mechanism: Mechanism = "softmax",
        reach: Distances = None,
        bias: FixedArray | None = None,
    ):
        r"""Describe the layer.

        **Arguments:**

        - `scale`: $c$, that products are multiplied by besides $1 / d$.
        - `heads`: into how many groups channels are split, each with weights of its
            own. The kernel does not depend on it.
        - `mechanism`: `"softmax"`, `"identity"`, `"relu"` or `"abs"`.
        - `reach`: which keys each query has, as for `GlobalSelfAttention`, where both
            are at the same positions.
        - `bias`: $B$, an array `(queries, keys)` for positions in a row, or one number.
            It is constant, and minus infinity for keys that a query does not have.
        """
        self.scale, self.heads, self.mechanism = scale, plain(heads), lowered(mechanism)
        self.reach = plain(reach)
        self.bias = None if bias is None else FrozenArray.of(bias)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: tuple[Signal, Signal, Signal], *, key: PRNGKeyArray | None = None
    ) -> Signal:
        (queries, extras), (keys, of_keys), (values, _) = map(unwrap, x)
        self._check(queries.shape, keys.shape, values.shape)
        sizes = queries.shape[1:], keys.shape[1:]
        split = lambda v: v.reshape(self.heads, v.shape[0] // self.heads, -1)
        queries, keys, values = map(split, (queries, keys, values))
        scores = jnp.einsum("hcp,hcq->hpq", queries, keys) / keys.shape[1]
        weights = self._weights(scores, sizes, of_keys.mask)
        out = jnp.einsum("hpq,hcq->hcp", weights, values)
        return extras.rewrap(out.reshape(-1, *sizes[0]), extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        queries, keys, values = self._three(many_inputs(self, covariance))
        outlines = [one.outline for one in (queries, keys, values)]
        self._check(*((o.channels, *o.size) for o in outlines))
        for one in (queries, keys, values):
            check_not_vanishing(self, one)
        alike = queries is keys
        if not alike:
            self._check_uncorrelated(queries, keys)
        size, size_in = queries.outline.size, keys.outline.size

        def weights(scope: Scope) -> Float[Array, "n queries keys"]:
            shape = scope.n1 + scope.n2, math.prod(size), math.prod(size_in)
            scores = jnp.zeros(shape, scope.dtype) + scope.zero
            if alike:
                own = dense_block(scope, queries, self_pairs=True).nngp
                scores = own.reshape(shape)
            one = lambda s, m: self._weights(s, (size, size_in), m)
            return jax.vmap(one)(scores, keys.outline.mask)

        out = Mapped(values, size, weighed(size), weights, mask=queries.outline.mask)
        out.outline = out.outline.replace(graph=queries.outline.graph)
        return out

    def _weights(
        self,
        products: Float[Array, "*heads queries keys"],
        sizes: tuple[tuple[int, ...], tuple[int, ...]],
        mask: Bool[Array, "*size_in"] | None,
    ) -> Float[Array, "*heads queries keys"]:
        """How much each key counts, given the products over the channels' number."""
        scores = jnp.asarray(self.scale, products.dtype) * products
        there = None if mask is None else mask.reshape(1, -1)
        if self.bias is not None:
            bias = jnp.asarray(self.bias.array, products.dtype)
            bias = jnp.broadcast_to(bias, products.shape[-2:])
            has = bias > -jnp.inf
            there = has if there is None else there & has
            scores = scores + jnp.where(has, bias, 0.0).reshape(
                *(1,) * (scores.ndim - 2), *bias.shape
            )
        near = self._near(*sizes)
        if near is not None:
            there = jnp.asarray(near) if there is None else there & near
        return attended(scores, self.mechanism, there)

    def _near(
        self, size: tuple[int, ...], size_in: tuple[int, ...]
    ) -> Bool[Array, "#queries keys"] | None:
        if self.reach is None:
            return None
        if size != size_in:
            raise LayerError(
                self,
                f"has `reach={self.reach}`, but queries at positions {size} and keys "
                f"at {size_in}, between which there are no distances. Give a `bias`.",
            )
        try:
            near = within_reach(size, self.reach)
        except ValueError as error:
            raise LayerError(self, str(error)) from None
        return None if near is None else jnp.asarray(near)

    def _three(
        self, given: tuple[AbstractCovariance, ...]
    ) -> tuple[AbstractCovariance, ...]:
        if len(given) != 3:
            raise LayerError(
                self,
                f"takes queries, keys and values, but gets {len(given)} inputs. What "
                "is both queries and keys is read twice: see `nn.Wiring`.",
            )
        return given

    def _check(self, *shapes: tuple[int, ...]) -> None:
        """Raise unless channels and positions of queries, keys and values fit."""
        queries, keys, values = shapes
        if queries[0] != keys[0] or keys[1:] != values[1:]:
            raise LayerError(
                self,
                f"has queries of shape {queries}, keys of {keys} and values of "
                f"{values}, but queries and keys must have as many channels, and keys "
                "and values the same positions.",
            )
        for channels in (queries[0], values[0]):
            if channels % self.heads:
                raise LayerError(
                    self,
                    f"splits {channels} channels into {self.heads} heads, which does "
                    "not come out even.",
                )
        if self.bias is None:
            return
        wanted = math.prod(queries[1:]), math.prod(keys[1:])
        if self.bias.shape not in ((), wanted):
            raise LayerError(
                self,
                f"has a `bias` of shape {self.bias.shape}, but {wanted[0]} queries and "
                f"{wanted[1]} keys: give an array of shape {wanted}.",
            )

    def _check_uncorrelated(
        self, queries: AbstractCovariance, keys: AbstractCovariance
    ) -> None:
        """Raise unless products of queries and keys have the mean zero."""
        wide = all(one.outline.trainable for one in (queries, keys))
        if wide and uncorrelated([queries, keys]):
            return
        raise LayerError(
            self,
            "has queries and keys which come from the same weights, or are no outputs "
            "of weights, so that their products are not known. Give each a `Linear` of "
            "its own, or let one be both.",
        )
