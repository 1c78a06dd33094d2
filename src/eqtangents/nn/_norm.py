"""Normalisation layers."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqtangents._types import Axes, Count, NonNegative, Scalar, plain
from eqtangents.covariance import (
    AbstractCovariance,
    Centred,
    Nonlinear,
    Normalised,
    TrainedGains,
    mapped_examples,
)
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import AbstractLayer, Covariances, LayerError, one_input


_Gained = TypeVar("_Gained", "LayerNorm", "RMSNorm", "GroupNorm")


class LayerNorm(AbstractLayer):
    r"""Subtract the mean and divide by the standard deviation, over some of the axes.

    In the limit of infinitely many channels neither is random any more:

    $$K'_{pp'} = \frac{K_{pp'}}{\sqrt{v_p v'_{p'}}}, \qquad
    v_p = \epsilon + \operatorname{mean} K(x, x)_{qq}$$

    and $T'$ alike, with the mean over the positions $q$ that are normalised along with
    $p$. The gains (one a channel, from 1) add $K'$ to $T'$, the offsets (from 0) add 1;
    at initialisation they do not change the function.

    **Source:** Ba et al. 2016, arXiv:1607.06450; Yang 2020, arXiv:2006.14548.
    """

    weight: Float[Array, " channels"] | None
    bias: Float[Array, " channels"] | None
    axes: tuple[int, ...] = eqx.field(static=True)
    eps: NonNegative
    use_weight: bool = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)

    def __init__(
        self,
        axes: Axes = 0,
        *,
        eps: NonNegative = 1e-12,
        use_weight: bool = False,
        use_bias: bool = False,
    ):
        """Describe the layer.

        **Arguments:**

        - `axes`: axes of one example to normalise over: 0, the channels, and any of
            the spatial ones, from 1 on.
        - `eps`: added to the variance.
        - `use_weight`, `use_bias`: whether to learn gains and offsets.
        """
        self.weight, self.bias = None, None
        axes = plain(axes)
        self.axes = (axes,) if isinstance(axes, int) else axes
        self.eps, self.use_weight, self.use_bias = eps, use_weight, use_bias

    def __check_init__(self):
        """Raise unless the channels are normalised over."""
        if 0 not in self.axes or len(set(self.axes)) != len(self.axes):
            raise ValueError(
                f"LayerNorm: `axes` is {self.axes}, but must have axis 0, the channels,"
                " and others at most once: statistics of a single channel stay random "
                "in the limit of infinitely many of them."
            )

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "LayerNorm":
        """Gains of one and offsets of zero."""
        self._spatial_axes(len(input_shape) - 1)
        return _with_gains(self, input_shape[0])

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        """Apply to one example."""
        value, extras = unwrap(x)
        self._spatial_axes(value.ndim - 1)
        value = _standardised(value, extras.mask, self.axes, self.eps, centred=True)
        return extras.rewrap(_modulated(self, value), extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Divide by the deviations, and add what gains and offsets contribute."""
        covariance = one_input(self, covariance)
        outline = covariance.outline
        axes = self._spatial_axes(outline.rank)
        if covariance.examples is not None:
            normalised = _exactly(covariance, self.axes, self.eps, centred=True)
        elif outline.centred:
            normalised = Normalised(covariance, axes, self.eps)
        # This asks which rule comes right before, not for a fact of the outline: the
        # mean follows from the nonlinearity and the variance of its input.
        elif isinstance(covariance, Nonlinear) and not axes:
            normalised = Normalised(Centred(covariance), axes, self.eps)
        else:
            raise LayerError(
                self,
                "subtracts the mean over the channels, which is known for inputs with "
                "mean zero, for the network's input, and right after a nonlinearity "
                "(over the channels alone), but not here. Put a `Linear` or `Conv` "
                "before it, or use `RMSNorm`.",
            )
        return _with_tangents(self, normalised)

    def _spatial_axes(self, rank: int) -> tuple[int, ...]:
        if max(self.axes) > rank or min(self.axes) < 0:
            raise LayerError(
                self,
                f"normalises over axes {self.axes}, but its input has axis 0 for "
                f"channels and {rank} spatial axes after it.",
            )
        return tuple(axis - 1 for axis in self.axes if axis)


class RMSNorm(AbstractLayer):
    r"""Divide by the root of the mean square over the channels, at each position.

    $$K'_{pp'} = K_{pp'} / \sqrt{(\epsilon + K_{pp})(\epsilon + K'_{p'p'})}$$

    and $T'$ alike; no mean is subtracted, so that any input will do. Gains and offsets
    as in `LayerNorm`.

    **Source:** Zhang & Sennrich 2019, arXiv:1910.07467.
    """

    weight: Float[Array, " channels"] | None
    bias: Float[Array, " channels"] | None
    eps: NonNegative
    use_weight: bool = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)

    def __init__(
        self,
        *,
        eps: NonNegative = 1e-12,
        use_weight: bool = False,
        use_bias: bool = False,
    ):
        """Describe the layer, as `LayerNorm`."""
        self.weight, self.bias = None, None
        self.eps, self.use_weight, self.use_bias = eps, use_weight, use_bias

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "RMSNorm":
        """Gains of one and offsets of zero."""
        return _with_gains(self, input_shape[0])

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        """Apply to one example."""
        value, extras = unwrap(x)
        value = _standardised(value, extras.mask, (0,), self.eps, centred=False)
        return extras.rewrap(_modulated(self, value), extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Divide by the deviations, and add what gains and offsets contribute."""
        covariance = one_input(self, covariance)
        if covariance.examples is not None:
            normalised = _exactly(covariance, (0,), self.eps, centred=False)
        else:
            normalised = Normalised(covariance, (), self.eps)
        return _with_tangents(self, normalised)


class GroupNorm(AbstractLayer):
    """`LayerNorm` over the positions and each group of the channels.

    In the limit each group has infinitely many channels, and so the same statistics.

    **Source:** Wu & He 2018, arXiv:1803.08494.
    """

    weight: Float[Array, " channels"] | None
    bias: Float[Array, " channels"] | None
    eps: NonNegative
    groups: Count = eqx.field(static=True)
    use_weight: bool = eqx.field(static=True)
    use_bias: bool = eqx.field(static=True)

    def __init__(
        self,
        groups: Count,
        *,
        eps: NonNegative = 1e-12,
        use_weight: bool = False,
        use_bias: bool = False,
    ):
        """Describe the layer, as `LayerNorm`."""
        self.weight, self.bias = None, None
        self.groups, self.eps = plain(groups), eps
        self.use_weight, self.use_bias = use_weight, use_bias

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "GroupNorm":
        """Gains of one and offsets of zero."""
        self._check(input_shape[0])
        return _with_gains(self, input_shape[0])

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        """Apply to one example."""
        value, extras = unwrap(x)
        self._check(value.shape[0])
        groups = value.reshape(self.groups, -1, *value.shape[1:])
        axes = tuple(range(value.ndim))
        standardised = jax.vmap(
            lambda one: _standardised(one, extras.mask, axes, self.eps, centred=True)
        )(groups)
        value = _modulated(self, standardised.reshape(value.shape))
        return extras.rewrap(value, extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Divide by the deviations, and add what gains and offsets contribute."""
        covariance = one_input(self, covariance)
        outline = covariance.outline
        self._check(outline.channels)
        if self.groups == outline.channels:
            raise LayerError(
                self,
                "has one channel in each group: statistics of a single channel stay "
                "random, so that there is no kernel in closed form. Use fewer groups, "
                "or estimate the kernel by `eqtangents.monte_carlo`.",
            )
        if not (outline.centred and outline.exchangeable):
            raise LayerError(
                self,
                "needs inputs with mean zero, whose channels are all alike. Put a "
                "`Linear` or `Conv` before it.",
            )
        axes = tuple(range(outline.rank))
        return _with_tangents(self, Normalised(covariance, axes, self.eps))

    def _check(self, channels: int) -> None:
        if channels % self.groups:
            raise LayerError(
                self,
                f"splits channels into {self.groups} groups, but the input has "
                f"{channels} of them, which is no multiple of that.",
            )


def _standardised(
    value: Float[Array, "channels *size"],
    mask: Bool[Array, "*size"] | None,
    axes: tuple[int, ...],
    eps: Scalar,
    *,
    centred: bool,
) -> Float[Array, "channels *size"]:
    """Values of variance one over some axes, counting only positions there are."""
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


def _exactly(
    covariance: AbstractCovariance,
    axes: tuple[int, ...],
    eps: Scalar,
    *,
    centred: bool,
) -> AbstractCovariance:
    """The input, normalised: its channels are finitely many, and known."""
    mask = covariance.outline.mask
    one = lambda value, mask: _standardised(value, mask, axes, eps, centred=centred)
    each = lambda examples: jax.vmap(one)(examples, mask)
    return mapped_examples(covariance, each)


def _with_gains(layer: _Gained, channels: int) -> _Gained:
    return eqx.tree_at(
        lambda one: (one.weight, one.bias),
        layer,
        (
            jnp.ones(channels) if layer.use_weight else None,
            jnp.zeros(channels) if layer.use_bias else None,
        ),
        is_leaf=lambda leaf: leaf is None,
    )


def _modulated(
    layer: LayerNorm | RMSNorm | GroupNorm, value: Float[Array, "channels *size"]
) -> Float[Array, "channels *size"]:
    each = (-1, *(1,) * (value.ndim - 1))
    if layer.weight is not None:
        value = layer.weight.reshape(each) * value
    return value if layer.bias is None else value + layer.bias.reshape(each)


def _with_tangents(
    layer: LayerNorm | RMSNorm | GroupNorm, normalised: AbstractCovariance
) -> AbstractCovariance:
    if not (layer.use_weight or layer.use_bias):
        return normalised
    return TrainedGains(normalised, gain=layer.use_weight, offset=layer.use_bias)
