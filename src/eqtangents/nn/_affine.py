"""What layers with weights share: drawing them, applying them, and their kernels."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import NonNegative
from eqtangents.covariance import (
    AbstractCovariance,
    Affine,
    Stencil,
    Vanished,
)
from eqtangents.covariance._window_sums import TapWeights
from eqtangents.duals._elementary import safe_sqrt
from eqtangents.nn._layer import (
    AbstractLayer,
    LayerError,
    check_not_vanishing,
    missing_parameters,
    needed_key,
)
from eqtangents.nn._parameterization import (
    AbstractParameterization,
    Fans,
    ParameterScale,
)
from eqtangents.nn._rates import rate_of
from eqtangents.nn._taps import over_weights
from eqtangents.nn._weight_init import WeightInit, drawn_weights


class AbstractAffine(AbstractLayer):
    r"""A layer with fresh weights $\omega$ and biases $\beta$.

    With $N$ inputs to each output,

    $$z = \frac{m_w}{\sqrt{N}}\, \omega x + m_b\, \beta,$$

    where the `parameterization` says what $m_w, m_b$ are, and the variances of
    $\omega, \beta$. At initialisation all but `MuP(readout=True)` make one function of
    `weight_std` $\sigma_w$ and `bias_std` $\sigma_b$, and have different gradients.
    Without `bias_std` there is no bias.
    """

    weight: eqx.AbstractVar[Float[Array, "..."] | None]
    bias: eqx.AbstractVar[Float[Array, "out ..."] | None]
    weight_std: eqx.AbstractVar[NonNegative]
    bias_std: eqx.AbstractVar[NonNegative | None]
    weight_init: eqx.AbstractVar[WeightInit]
    parameterization: eqx.AbstractVar[AbstractParameterization]
    rated: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def _drawn(
        self,
        shape: tuple[int, ...],
        fans: Fans,
        key: PRNGKeyArray | None,
        bias_shape: tuple[int, ...] | None = None,
        *,
        relative: TapWeights | None = None,
        groups: int = 1,
    ) -> Any:
        """This layer with weights of a shape: outputs, inputs, taps and whatever else.

        `relative`: the variances of taps, of mean one, if they are not alike.
        """
        weight_key, bias_key = jr.split(needed_key(self, key))
        weight = drawn_weights(self.weight_init, shape, groups, weight_key)
        deviation, bias = self._weight_scale(fans, relative).deviation, None
        weight = weight * over_weights(deviation, weight)
        if self.bias_std is not None:
            scale = self.parameterization.biases(self.bias_std, fans)
            bias = jr.normal(bias_key, bias_shape or shape[:1]) * scale.deviation
        return eqx.tree_at(
            lambda layer: (layer.weight, layer.bias),
            self,
            (weight, bias),
            is_leaf=lambda leaf: leaf is None,
        )

    def _drawn_weight(self) -> Float[Array, "..."]:
        if self.weight is None:
            raise missing_parameters(self)
        return self.weight

    def _weight_scale(
        self, fans: Fans, relative: TapWeights | None = None
    ) -> ParameterScale:
        """The scale of weights; that of each tap if they have variances of their own.

        Whether taps differ in what they are multiplied by, or in what they are drawn
        with, is for the parameterisation to say.
        """
        std = self.weight_std
        if relative is not None:
            relative = jnp.asarray(relative, jnp.result_type(std, float))
            std = std * safe_sqrt(relative)
        return self.parameterization.weights(std, fans)

    def _applied(
        self,
        apply: Callable[[Float[Array, "..."]], Float[Array, "out ..."]],
        weight: Float[Array, "..."],
        fans: Fans,
        relative: TapWeights | None = None,
    ) -> Float[Array, "out ..."]:
        """The output `z`, given what weights do to the input.

        The numbers that taps are multiplied by stand before the weights if they differ,
        and before the sum if they are one.
        """
        multiplier = self._weight_scale(fans, relative).multiplier
        if jnp.ndim(multiplier):
            weight = weight * over_weights(multiplier, weight)
            multiplier = 1.0
        product = apply(weight)
        multiplier = jnp.asarray(multiplier, product.dtype)
        product = multiplier / math.sqrt(fans.inputs) * product
        bias = self.bias
        if bias is None or self.bias_std is None:
            return product
        scale = self.parameterization.biases(self.bias_std, fans)
        bias = bias.reshape(*bias.shape, *(1,) * (product.ndim - bias.ndim))
        return product + jnp.asarray(scale.multiplier, product.dtype) * bias

    def _fresh(
        self,
        sums: AbstractCovariance,
        *,
        taps: int,
        channels_in: int,
        channels: int,
        relative: TapWeights | None = None,
        gaussian: bool = True,
    ) -> AbstractCovariance:
        """The kernel of `z`, from the kernel of its inputs, summed over so many taps.

        `relative`: the variances of taps, of mean one, if they are not alike.
        `gaussian`: whether each output mixes infinitely many inputs.
        """
        self._check_inputs(channels_in, taps)
        check_not_vanishing(self, sums)
        channels = self.parameterization.channels(channels)
        fans = Fans(channels_in * taps, channels_in, channels)
        weights = self._weight_scale(fans)
        std = weights.of_function
        shift, bias_gradient = 0.0, 0.0
        if self.bias_std is not None:
            biases = self.parameterization.biases(self.bias_std, fans)
            shift = biases.of_function * biases.of_function
            bias_gradient = biases.multiplier * biases.multiplier * rate_of(self.bias)
        weight_gradient = weights.multiplier * weights.multiplier / taps
        inputs, seen = self._seen(sums, fans, relative)
        fresh = Affine(
            inputs,
            scale=std * std / taps,
            shift=shift,
            weight_gradient=weight_gradient * rate_of(self.weight),
            bias_gradient=bias_gradient,
            channels=channels,
            gaussian=gaussian,
            seen=seen,
        )
        if not self.parameterization.vanishing:
            return fresh
        if not sums.outline.trainable:
            raise LayerError(
                self,
                "is a readout, whose outputs vanish as its input widens, but it reads "
                "the input of the network. Put a layer with weights before it, or "
                "write `parameterization=nn.MuP()`.",
            )
        return Vanished(fresh, shift)

    def _seen(
        self, sums: AbstractCovariance, fans: Fans, relative: TapWeights | None
    ) -> tuple[AbstractCovariance, AbstractCovariance]:
        """What weights multiply, by their variances, and as their gradients see it.

        Gradients see each tap by what it is multiplied with: not how it was drawn.
        """
        if relative is None:
            return sums, sums
        assert isinstance(sums, Stencil)
        drawn, scale = sums.weighted(relative), self._weight_scale(fans, relative)
        if not jnp.ndim(scale.deviation):
            return drawn, drawn
        if not jnp.ndim(scale.multiplier):
            return drawn, sums
        whole = self._weight_scale(fans).multiplier
        return drawn, sums.weighted(jnp.square(scale.multiplier / whole))

    def _check_inputs(self, channels: int, taps: int) -> None:
        """Raise if this layer has weights for another number of channels."""
        if self.weight is None:
            return
        inputs = self.weight.shape[1]
        if inputs not in (channels, channels * taps):
            raise LayerError(
                self,
                f"has weights for {inputs} inputs to each output, but its input has "
                f"{channels} channels. Batches are `(n, channels, *spatial)`: pass one "
                "example as `x[None]`. For the kernel of other inputs leave parameters "
                "out.",
            )
