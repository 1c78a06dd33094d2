"""What layers with weights share: drawing them, applying them, and their kernels."""

import math
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import NonNegative
from eqtangents.covariance import AbstractCovariance, Affine, Vanished
from eqtangents.nn._layer import (
    AbstractLayer,
    LayerError,
    check_not_vanishing,
    missing_parameters,
    needed_key,
)
from eqtangents.nn._parameterization import AbstractParameterization, Fans
from eqtangents.nn._rates import rate_of


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
    parameterization: eqx.AbstractVar[AbstractParameterization]
    rated: ClassVar[frozenset[str]] = frozenset({"weight", "bias"})

    def _drawn(
        self,
        shape: tuple[int, ...],
        fans: Fans,
        key: PRNGKeyArray | None,
        bias_shape: tuple[int, ...] | None = None,
    ) -> Any:
        """This layer with weights of a shape that begins with the outputs."""
        weight_key, bias_key = jr.split(needed_key(self, key))
        scale = self.parameterization.weights(self.weight_std, fans)
        weight, bias = jr.normal(weight_key, shape) * scale.deviation, None
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

    def _scaled(
        self, product: Float[Array, "out ..."], fans: Fans
    ) -> Float[Array, "out ..."]:
        """The output `z`, given `weight @ x`."""
        scale = self.parameterization.weights(self.weight_std, fans)
        multiplier = jnp.asarray(scale.multiplier, product.dtype)
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
        gaussian: bool = True,
    ) -> AbstractCovariance:
        """The kernel of `z`, from the kernel of its inputs, summed over so many taps.

        `gaussian`: whether each output mixes infinitely many inputs.
        """
        self._check_inputs(channels_in, taps)
        check_not_vanishing(self, sums)
        channels = self.parameterization.channels(channels)
        fans = Fans(channels_in * taps, channels_in, channels)
        weights = self.parameterization.weights(self.weight_std, fans)
        std = weights.of_function
        shift, bias_gradient = 0.0, 0.0
        if self.bias_std is not None:
            biases = self.parameterization.biases(self.bias_std, fans)
            shift = biases.of_function * biases.of_function
            bias_gradient = biases.multiplier * biases.multiplier * rate_of(self.bias)
        weight_gradient = weights.multiplier * weights.multiplier / taps
        fresh = Affine(
            sums,
            scale=std * std / taps,
            shift=shift,
            weight_gradient=weight_gradient * rate_of(self.weight),
            bias_gradient=bias_gradient,
            channels=channels,
            gaussian=gaussian,
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
