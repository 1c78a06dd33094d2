"""What layers with weights share: parameterizations, and their kernels."""

import math
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import Multipliers, NonNegative
from eqtangents.covariance import AbstractCovariance, Affine
from eqtangents.nn._layer import AbstractLayer, LayerError, missing_parameters


Parameterization: TypeAlias = Literal["ntk", "standard"]


class AbstractAffine(AbstractLayer):
    r"""A layer with fresh weights $\omega$ and biases $\beta$.

    With `fan_in` inputs to each output, and the width multipliers $s_0, s_1$ of its
    inputs and outputs,

    - `"ntk"`: $\omega, \beta \sim \mathcal{N}(0, 1)$ and
        $z = \frac{\sigma_w}{\sqrt{\text{fan\_in}}}\, \omega x + \sigma_b\, \beta$;
    - `"standard"`: $\omega \sim \mathcal{N}(0, \sigma_w^2 s_0 / \text{fan\_in})$,
        $\beta \sim \mathcal{N}(0, \sigma_b^2)$ and
        $z = \frac{1}{\sqrt{s_0}}\, \omega x + \beta$, with $s_1$ times as many
        outputs as were asked for (Sohl-Dickstein et al. 2020, arXiv:2001.07301).

    The two have one function at initialisation, and different gradients. Without
    `bias_std` there is no bias.
    """

    weight: eqx.AbstractVar[Float[Array, "..."] | None]
    bias: eqx.AbstractVar[Float[Array, "out ..."] | None]
    weight_std: eqx.AbstractVar[NonNegative]
    bias_std: eqx.AbstractVar[NonNegative | None]
    parameterization: eqx.AbstractVar[Parameterization]
    width_multipliers: eqx.AbstractVar[Multipliers]

    @property
    def _standard(self) -> bool:
        return self.parameterization == "standard"

    def _channels(self, out: int) -> int:
        """Outputs, given how many there are at multiplier 1."""
        return out * self.width_multipliers[1] if self._standard else out

    def _drawn(
        self,
        shape: tuple[int, ...],
        fan_in: int,
        key: PRNGKeyArray | None,
        bias_shape: tuple[int, ...] | None = None,
    ) -> Any:
        """This layer with weights of a shape that begins with the outputs."""
        if key is None:
            raise LayerError(
                self,
                "`init` draws parameters, but was given no key. Pass "
                "`key=jax.random.key(0)`, say.",
            )
        weight_key, bias_key = jr.split(key)
        weight, bias = jr.normal(weight_key, shape), None
        if self._standard:
            weight *= self.weight_std * math.sqrt(self.width_multipliers[0] / fan_in)
        if self.bias_std is not None:
            bias = jr.normal(bias_key, bias_shape or shape[:1])
            bias *= self.bias_std if self._standard else 1.0
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
        self, product: Float[Array, "out ..."], fan_in: int
    ) -> Float[Array, "out ..."]:
        """`z`, given `weight @ x`."""
        bias = self.bias
        if bias is not None:
            bias = bias.reshape(*bias.shape, *(1,) * (product.ndim - bias.ndim))
        if self._standard:
            product = product / math.sqrt(self.width_multipliers[0])
        else:
            scale = jnp.asarray(self.weight_std, product.dtype)
            product = scale / math.sqrt(fan_in) * product
            if bias is not None:
                bias = jnp.asarray(self.bias_std, product.dtype) * bias
        return product if bias is None else product + bias

    def _fresh(
        self,
        sums: AbstractCovariance,
        *,
        taps: int,
        channels_in: int,
        channels: int,
        gaussian: bool = True,
    ) -> AbstractCovariance:
        """The kernel of `z`, given that of its inputs, summed over so many taps.

        `gaussian`: whether each output mixes infinitely many inputs.
        """
        self._check_inputs(channels_in, taps)
        scale = self.weight_std * self.weight_std / taps
        shift = 0.0 if self.bias_std is None else self.bias_std * self.bias_std
        if not self._standard:
            weight_gradient, bias_gradient = scale, shift
        else:
            weight_gradient = channels_in / self.width_multipliers[0]
            bias_gradient = 0.0 if self.bias_std is None else 1.0
        return Affine(
            sums,
            scale=scale,
            shift=shift,
            weight_gradient=weight_gradient,
            bias_gradient=bias_gradient,
            channels=self._channels(channels),
            gaussian=gaussian,
        )

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
