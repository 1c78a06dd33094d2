"""Vectors for tokens."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Integer, PRNGKeyArray, Real

from eqtangents._types import Count, Multipliers, NonNegative, is_concrete, plain
from eqtangents.covariance import AbstractCovariance, Affine, EqualTokens
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    LayerError,
    missing_parameters,
    needed_key,
    one_input,
)
from eqtangents.nn._parameterization import (
    AbstractParameterization,
    Fans,
    Parameterization,
    ParameterScale,
    as_parameterization,
)
from eqtangents.nn._rates import rate_of


class Embedding(AbstractLayer):
    r"""A trained vector for each token, at every position.

    With tokens $t_p$ from $0$ to $V - 1$ and, in the NTK parameterisation, vectors
    $\sigma_w \omega_t$ of standard normal $\omega$,

    $$z_p = \sigma_w\, \omega_{t_p}, \qquad
    K'_{pp'} = T'_{pp'} = \sigma_w^2\, \delta_{t_p t'_{p'}}.$$

    It is a `Linear` of unit vectors $e_t$, one of which stands for each token, that is
    not divided by the root of their number: see `parameterization` for others.

    The input has one channel, of tokens: a batch is `(n, 1, *positions)`, of integers
    or of floating-point numbers that are integers. Kernels have the dtype of these, and
    of integers JAX's floating-point type. The layer comes first in the network, or
    after a `Prepare`.

    **Cost:** that of any layer, whatever the number of tokens.
    """

    rated: ClassVar[frozenset[str]] = frozenset({"weight"})
    takes_integers: ClassVar[bool] = True

    weight: Float[Array, "num_embeddings embedding_size"] | None
    weight_std: NonNegative
    num_embeddings: Count = eqx.field(static=True)
    embedding_size: Count = eqx.field(static=True)
    parameterization: AbstractParameterization

    def __init__(
        self,
        num_embeddings: Count,
        embedding_size: Count,
        *,
        weight_std: NonNegative = 1.0,
        parameterization: Parameterization = "ntk",
        width_multipliers: Multipliers = (1, 1),
    ):
        r"""Describe the layer; `init` draws its parameters.

        **Arguments:**

        - `num_embeddings`: the number of tokens $V$.
        - `embedding_size`: the number of outputs. The kernel depends on neither.
        - `weight_std`: $\sigma_w$, the standard deviation of the entries of vectors.
        - `parameterization`, `width_multipliers`: as for `Linear`, of one input to each
            output.

        **Raises:** `ValueError` for width multipliers that would have no effect.
        """
        self.weight, self.weight_std = None, weight_std
        self.num_embeddings = plain(num_embeddings)
        self.embedding_size = plain(embedding_size)
        self.parameterization = as_parameterization(
            self, parameterization, width_multipliers
        )

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "Embedding":
        """Draw a vector for each token; inputs have one channel, of any size."""
        self._check_channels(input_shape[0])
        shape = (self.num_embeddings, self._channels)
        weight = jr.normal(needed_key(self, key), shape) * self._scale.deviation
        return eqx.tree_at(
            lambda layer: layer.weight, self, weight, is_leaf=lambda leaf: leaf is None
        )

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        if self.weight is None:
            raise missing_parameters(self)
        value, extras = unwrap(x)
        self._check_channels(value.shape[0])
        tokens = self._checked_tokens(value[0])
        # Of tokens that there are not, in an array whose values are not known yet.
        vectors = self.weight.at[tokens].get(
            mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
        )
        multiplier = jnp.asarray(self._scale.multiplier, vectors.dtype)
        return extras.rewrap(multiplier * jnp.moveaxis(vectors, -1, 0), extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        if covariance.examples is None:
            raise LayerError(
                self,
                "takes tokens, but follows another layer, whose outputs are none. Put "
                "it first in the network, or after a `Prepare`.",
            )
        self._check_channels(covariance.outline.channels)
        self._checked_tokens(covariance.examples[:, 0])
        if self.parameterization.vanishing:
            raise LayerError(
                self,
                "reads the input of the network, and is no readout: write "
                "`parameterization=nn.MuP()`.",
            )
        scale = self._scale
        return Affine(
            EqualTokens(covariance),
            scale=scale.of_function * scale.of_function,
            shift=0.0,
            weight_gradient=scale.multiplier * scale.multiplier * rate_of(self.weight),
            bias_gradient=0.0,
            channels=self._channels,
        )

    @property
    def _channels(self) -> int:
        return self.parameterization.channels(self.embedding_size)

    @property
    def _scale(self) -> ParameterScale:
        return self.parameterization.weights(
            self.weight_std, Fans(1, 1, self._channels)
        )

    def _check_channels(self, channels: int) -> None:
        if channels != 1:
            raise LayerError(
                self,
                f"takes one token at each position, but its input has {channels} "
                "channels. Tokens are one channel, and a batch of sequences is "
                "`(n, 1, positions)`: pass `tokens[:, None]`.",
            )

    def _checked_tokens(self, values: Real[Array, "..."]) -> Integer[Array, "..."]:
        """Tokens as integers; those that are known are there.

        **Raises:** `LayerError` for any other number.
        """
        if is_concrete(values) and values.size:
            known = np.asarray(values)
            least, most, parts = known.min(), known.max(), (known % 1).any()
            if least < 0 or most >= self.num_embeddings or parts:
                wrong = "fractions" if parts else f"{least:.0f} to {most:.0f}"
                raise LayerError(
                    self,
                    f"has vectors for the tokens 0 to {self.num_embeddings - 1}, but "
                    f"was given {wrong}. Missing positions are told by "
                    "`nn.Masked(tokens, mask)`, whatever stands there.",
                )
        return values.astype(jnp.int32)
