"""What normalisation layers share: statistics, and trained gains and offsets."""

import abc
from typing import ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqtangents._types import NonNegative, Scalar
from eqtangents.covariance import AbstractCovariance, TrainedGains, mapped_examples
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    check_not_vanishing,
    one_input,
)
from eqtangents.nn._rates import rate_of


Normalisation = TypeVar("Normalisation", bound="AbstractNorm")


class AbstractNorm(AbstractLayer):
    """A layer that divides by deviations, then applies trained gains and offsets.

    There is one of each a channel, gains from 1 and offsets from 0. At initialisation
    they do not change the function; gains add $K'$ to $T'$, and offsets add 1.
    """

    weight: eqx.AbstractVar[Float[Array, " channels"] | None]
    bias: eqx.AbstractVar[Float[Array, " channels"] | None]
    eps: eqx.AbstractVar[NonNegative]
    use_weight: eqx.AbstractVar[bool]
    use_bias: eqx.AbstractVar[bool]
    rated: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    @abc.abstractmethod
    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise for inputs of a shape that has not the axes or channels needed."""

    @abc.abstractmethod
    def standardised(
        self, value: Float[Array, "channels *size"], mask: Bool[Array, "*size"] | None
    ) -> Float[Array, "channels *size"]:
        """The normalised values of one example, without gains and offsets."""

    @abc.abstractmethod
    def normalised(self, covariance: AbstractCovariance) -> AbstractCovariance:
        """The covariance of normalised values, without gains and offsets."""

    def init(
        self: Normalisation,
        input_shape: tuple[int, ...],
        *,
        key: PRNGKeyArray | None = None,
    ) -> Normalisation:
        """Gains of one and offsets of zero."""
        self.check_shape(input_shape)
        channels = input_shape[0]
        return eqx.tree_at(
            lambda one: (one.weight, one.bias),
            self,
            (
                jnp.ones(channels) if self.use_weight else None,
                jnp.zeros(channels) if self.use_bias else None,
            ),
            is_leaf=lambda leaf: leaf is None,
        )

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        value, extras = unwrap(x)
        self.check_shape(value.shape)
        value = self.standardised(value, extras.mask)
        each = (-1, *(1,) * (value.ndim - 1))
        if self.weight is not None:
            value = self.weight.reshape(each) * value
        if self.bias is not None:
            value = value + self.bias.reshape(each)
        return extras.rewrap(value, extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        check_not_vanishing(self, covariance)
        outline = covariance.outline
        self.check_shape((outline.channels, *outline.size))
        covariance = self.normalised(covariance)
        if not (self.use_weight or self.use_bias):
            return covariance
        return TrainedGains(
            covariance,
            gain_rate=rate_of(self.weight) if self.use_weight else 0.0,
            offset_rate=rate_of(self.bias) if self.use_bias else 0.0,
        )


def standardised(
    value: Float[Array, "channels *size"],
    mask: Bool[Array, "*size"] | None,
    axes: tuple[int, ...],
    eps: Scalar,
    *,
    centred: bool,
) -> Float[Array, "channels *size"]:
    """Values of variance one over some axes; masked positions have no part in it."""
    there = jnp.ones((1,) * value.ndim, bool) if mask is None else mask[None]
    there = jnp.broadcast_to(there, value.shape)
    # Without any positions there is nothing to divide by zero for.
    count = jnp.maximum(there.sum(axes, keepdims=True), 1).astype(value.dtype)
    zero = jnp.zeros_like(value)
    mean = lambda v: jnp.where(there, v, zero).sum(axes, keepdims=True) / count
    if centred:
        value = value - mean(value)
    total = mean(value * value) + jnp.asarray(eps, value.dtype)
    safe = jnp.where(total > 0, total, jnp.ones_like(total))
    return jnp.where(total > 0, value / jnp.sqrt(safe), jnp.zeros_like(value))


def normalised_input(
    covariance: AbstractCovariance,
    axes: tuple[int, ...],
    eps: Scalar,
    *,
    centred: bool,
) -> AbstractCovariance:
    """The covariance of normalised inputs: their channels are known, and few."""
    mask = covariance.outline.mask
    one = lambda value, mask: standardised(value, mask, axes, eps, centred=centred)
    return mapped_examples(covariance, lambda examples: jax.vmap(one)(examples, mask))
