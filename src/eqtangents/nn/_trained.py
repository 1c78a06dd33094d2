"""Parameters that no input is multiplied by, or each channel by its own."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import NonNegative, Scalar, SpatialAxes, plain
from eqtangents.covariance import (
    AbstractCovariance,
    PositionValues,
    ScaledGains,
    TrainedGains,
)
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    LayerError,
    check_not_vanishing,
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


class ChannelGains(AbstractLayer):
    r"""A trained factor for each channel, the same for all when it is initialised.

    $$y_c = g_c x_c, \qquad K' = g^2 K, \qquad T' = g^2 T + K$$

    Normalisation layers have gains of their own, `use_weight=True`.

    **Source:** Touvron et al. 2021, arXiv:2103.17239, section 3 (LayerScale).
    """

    rated: ClassVar[frozenset[str]] = frozenset({"weight"})

    weight: Float[Array, " channels"] | None
    initial: Scalar

    def __init__(self, initial: Scalar = 1.0):
        """Set the factor $g$ of all channels at initialisation."""
        self.weight, self.initial = None, initial

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "ChannelGains":
        """Gains for inputs with `input_shape[0]` channels; no key is needed."""
        gains = jnp.full(input_shape[:1], jnp.asarray(self.initial, float))
        return eqx.tree_at(lambda g: g.weight, self, gains, is_leaf=_missing)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        if self.weight is None:
            raise missing_parameters(self)
        value, extras = unwrap(x)
        return extras.rewrap(
            self.weight.reshape(-1, *(1,) * (value.ndim - 1)) * value, extras.mask
        )

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        check_not_vanishing(self, covariance)
        if not eqx.is_array(self.initial) and self.initial == 1:
            rate = rate_of(self.weight)
            return TrainedGains(covariance, gain_rate=rate, offset_rate=0.0)
        return ScaledGains(covariance, self.initial, rate_of(self.weight))


class Learned(AbstractLayer):
    r"""Trained values that depend on no input: biases, tokens, embeddings of positions.

    $$K'_{pp'} = \sigma^2\, \delta_{pp'}, \qquad
    T'_{pp'} = K'_{pp'} \text{ in the NTK parameterisation}$$

    There is a value for each channel and, along the `axes`, for each position; along
    the others the values are the same, and $\delta$ is one. The shape of the input is
    all that is read of it. Add the values by `FanInSum`.
    """

    rated: ClassVar[frozenset[str]] = frozenset({"value"})

    value: Float[Array, "channels *size"] | None
    std: NonNegative
    axes: tuple[int, ...] = eqx.field(static=True)
    parameterization: AbstractParameterization

    def __init__(
        self,
        *,
        std: NonNegative = 1.0,
        axes: SpatialAxes = (),
        parameterization: Parameterization = "ntk",
    ):
        r"""Describe the values.

        **Arguments:**

        - `std`: their standard deviation $\sigma$.
        - `axes`: the spatial axes, from 1 on, along which values differ.
        - `parameterization`: as for `Linear`, of which these are the biases.
        """
        self.value, self.std = None, std
        axes = plain(axes)
        self.axes = (axes,) if isinstance(axes, int) else axes
        self.parameterization = as_parameterization(self, parameterization, (1, 1))

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "Learned":
        """Draw values for inputs of a shape."""
        channels, *size = input_shape
        shape = [n if axis in self.axes else 1 for axis, n in enumerate(size, 1)]
        deviation = self._scale(channels).deviation
        value = jr.normal(needed_key(self, key), (channels, *shape)) * deviation
        return eqx.tree_at(lambda one: one.value, self, value, is_leaf=_missing)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        if self.value is None:
            raise missing_parameters(self)
        given, extras = unwrap(x)
        multiplier = self._scale(self.value.shape[0]).multiplier
        value = jnp.asarray(multiplier, self.value.dtype) * self.value
        shape = (value.shape[0], *given.shape[1:])
        return extras.rewrap(jnp.broadcast_to(value, shape), extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        check_not_vanishing(self, covariance)
        outline = covariance.outline
        if any(not 1 <= axis <= outline.rank for axis in self.axes):
            raise LayerError(
                self,
                f"has values along axes {self.axes}, but its input has {outline.rank} "
                "spatial axes, from 1 on.",
            )
        channels = outline.channels if self.value is None else self.value.shape[0]
        scale, equal = self._scale(channels), jnp.ones(())
        for axis, n in enumerate(outline.size, 1):
            one = jnp.eye(n) if axis in self.axes else jnp.ones((n, n))
            equal = jnp.tensordot(equal, one, 0)
        rank = outline.rank  # (first, first', second, second', ...)
        order = (*range(0, 2 * rank, 2), *range(1, 2 * rank, 2))
        return PositionValues(
            equal.transpose(order),
            covariance,
            channels,
            variance=scale.of_function * scale.of_function,
            gradient=scale.multiplier * scale.multiplier,
            rate=rate_of(self.value),
        )

    def _scale(self, channels: int) -> ParameterScale:
        fans = Fans(1, channels, channels)
        return self.parameterization.biases(self.std, fans)


def _missing(leaf: object) -> bool:
    return leaf is None
