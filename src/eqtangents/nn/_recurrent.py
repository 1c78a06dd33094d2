"""Recurrent layers: weights that are shared in time."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqtangents.covariance import (
    AbstractCovariance,
    Affine,
    Gathered,
    Recurrence,
    Scaled,
    States,
    Total,
)
from eqtangents.nn._activations import AbstractActivation
from eqtangents.nn._containers import check_are_layers, split_keys
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import (
    AbstractLayer,
    AbstractParameterless,
    Covariances,
    LayerError,
    check_not_vanishing,
    error_path,
    one_input,
    shape_after,
)
from eqtangents.nn._linear import Linear


class Recurrent(AbstractLayer):
    r"""States that depend on those before, with the same weights at all times.

    $$h_t = \phi(A h_{t-1} + B(x)_t), \qquad h_{-1} = 0$$

    over the one spatial axis of the input, its time; the output is all states,
    `(channels, time)`. Elman's $h_t = \tanh(W h_{t-1} + U x_t + b)$ is
    `nn.Recurrent(nn.Linear(n), nn.Linear(n, bias_std=0.1), nn.Tanh())`.

    In the limit, with the variances and gradients of $A$ in the NTK parameterisation
    and $X, X_T$ the kernels of $B(x)$,

    $$Q_{st} = \sigma_w^2 K_{s-1,t-1} + \sigma_b^2 + X_{st}, \qquad
    Q^T_{st} = \sigma_w^2 T_{s-1,t-1} + \sigma_w^2 K_{s-1,t-1} + \sigma_b^2 +
    X^T_{st},$$

    $$K_{st} = \mathbb{E}\, \phi(u) \phi(v), \qquad
    T_{st} = Q^T_{st}\, \mathbb{E}\, \phi'(u) \phi'(v)$$

    for Gaussian $(u, v)$ of covariance $Q_{st}$. Weights used at different distances
    from the output contribute nothing together, so that $s - t$ is fixed. What follows
    says which pairs of times count: `nn.Last()` asks for the last states, pooling for
    all.

    Sequences of unequal lengths are an `nn.Masked`: a state is zero where its example
    has no position, and so is the one before the next position that it has. Layers in
    both directions are branches, one of them with `reverse=True`.

    **Cost:** the time for each displacement $s - t$ that is asked for: after
    `nn.Last()` one, after pooling or without a readout all. Where some positions are
    masked, `nn.Last()` asks for all.

    **Source:** Alemohammad et al. 2020, arXiv:2006.10246; for weights that are shared
    in general, Yang 2019, arXiv:1902.04760.
    """

    hidden: Linear
    inputs: AbstractLayer
    activation: AbstractActivation
    reverse: bool = eqx.field(static=True)

    def __init__(
        self,
        hidden: Linear,
        inputs: AbstractLayer,
        activation: AbstractActivation,
        *,
        reverse: bool = False,
    ):
        r"""Describe the layer; `init` draws its parameters.

        **Arguments:**

        - `hidden`: $A$, from states to states.
        - `inputs`: $B$, from the input to as many channels as $A$ has, at as many
            times. It must end in weights. A `Linear` acts on each time alone.
        - `activation`: $\phi$.
        - `reverse`: whether time runs backwards, so that states depend on later ones.
        """
        self.hidden, self.inputs, self.activation = hidden, inputs, activation
        self.reverse = reverse

    def __check_init__(self):
        """Raise unless these are layers, the last of which is a function."""
        check_are_layers(self, (self.hidden, self.inputs, self.activation))
        if not isinstance(self.activation, AbstractActivation):
            raise ValueError(
                f"Recurrent: `activation` is a `{type(self.activation).__name__}`, but "
                "must be a function of each channel, `nn.Tanh()` say."
            )

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "Recurrent":
        """Draw weights for sequences with `input_shape[0]` channels."""
        hidden_key, inputs_key = split_keys(key, 2)
        with error_path("inputs"):
            inputs = self.inputs.init(input_shape, key=inputs_key)
            shape = shape_after(inputs, input_shape)
        self._check_sequence(len(shape) - 1)
        with error_path("hidden"):
            hidden = self.hidden.init(shape[:1], key=hidden_key)
        (channels,) = shape_after(hidden, shape[:1])
        self._check_channels(shape[0], channels)
        return Recurrent(hidden, inputs, self.activation, reverse=self.reverse)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        with error_path("inputs"):
            inputs: Any = self.inputs(x, key=key)
        added, extras = unwrap(inputs)
        self._check_sequence(added.ndim - 1)
        there = extras.mask
        if there is None:
            there = jnp.ones(added.shape[1:], bool)

        def step(
            state: Float[Array, " channels"],
            one: tuple[Float[Array, " channels"], Bool[Array, ""]],
        ) -> tuple[Float[Array, " channels"], Float[Array, " channels"]]:
            with error_path("hidden"):
                state = self.activation.function(self.hidden(state) + one[0])
            state = jnp.where(one[1], state, jnp.zeros_like(state))
            return state, state

        start = jnp.zeros_like(added[:, 0])
        _, states = lax.scan(step, start, (added.T, there), reverse=self.reverse)
        return extras.rewrap(states.T, extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        with error_path("inputs"):
            inputs = one_input(self, self.inputs.propagate(covariance))
        outline = inputs.outline
        self._check_sequence(outline.rank)
        check_not_vanishing(self, inputs)
        if not outline.gaussian or outline.has_trained_gains:
            raise LayerError(
                self,
                "needs Gaussian `inputs`, which end in weights, for its kernel: give a "
                "`Linear` for them, or put one at their end.",
            )
        with error_path("hidden"):
            hidden = self.hidden.propagate(States(inputs))
        if not isinstance(hidden, Affine):
            raise LayerError(
                self,
                "has `hidden` weights in the parameterisation of a readout, whose "
                "outputs vanish. Write `nn.MuP()` without `readout=True`.",
            )
        self._check_channels(outline.channels, hidden.outline.channels)
        return Recurrence(inputs, hidden, self.activation.dual, reverse=self.reverse)

    def _check_sequence(self, rank: int) -> None:
        if rank != 1:
            raise LayerError(
                self,
                f"takes sequences, `(channels, time)`, but its `inputs` have {rank} "
                "spatial axes. Flatten others into the channels first.",
            )

    def _check_channels(self, added: int, hidden: int) -> None:
        if added != hidden:
            raise LayerError(
                self,
                f"adds `inputs` of {added} channels to `hidden` states of {hidden}, "
                "but they must have as many: give both the same number of outputs.",
            )


class Last(AbstractParameterless):
    r"""The last position along the one spatial axis, of those that an example has.

    With $t, t'$ the last positions of two examples, $K' = K_{t t'}$ and $T'$ alike.

    **Cost:** none without a mask. With one, all pairs of positions.
    """

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        self._check_rank(value.ndim - 1)
        if extras.mask is None:
            return extras.rewrap(value[:, -1], None)
        weights = _last(extras.mask[None]).astype(value.dtype)
        return extras.rewrap((value * weights).sum(1), extras.mask.any())

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        outline = covariance.outline
        self._check_rank(outline.rank)
        if outline.mask is None:
            return Gathered(covariance, [outline.size[0] - 1])
        return Total(Scaled(covariance, _last(outline.mask)))

    def _check_rank(self, rank: int) -> None:
        if rank != 1:
            raise LayerError(
                self, f"takes one spatial axis, but the input has {rank} of them."
            )


def _last(mask: Bool[Array, "n positions"]) -> Float[Array, "n positions"]:
    """One at the last position that each example has, zero elsewhere."""
    positions = jnp.arange(mask.shape[1])[None]
    last = jnp.max(jnp.where(mask, positions, -1), 1, keepdims=True)
    return (positions == last).astype(float)
