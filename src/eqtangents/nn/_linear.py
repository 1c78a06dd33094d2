"""Fully-connected layers."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import Count, Multipliers, NonNegative, lowered, plain
from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._affine import AbstractAffine
from eqtangents.nn._inputs import SignalT, unwrap
from eqtangents.nn._layer import Covariances, LayerError, one_input
from eqtangents.nn._parameterization import (
    AbstractParameterization,
    Fans,
    Parameterization,
    as_parameterization,
)
from eqtangents.nn._weight_init import WeightInit


class Linear(AbstractAffine):
    r"""A fully-connected layer over the channels, at every position if there are any.

    $$z = \frac{\sigma_w}{\sqrt{C}}\, \omega x + \sigma_b \beta, \qquad
    K' = \sigma_w^2 K + \sigma_b^2, \qquad T' = \sigma_w^2 T + K'$$

    in the NTK parameterisation, where $C$ is the number of input channels; see
    `parameterization` for others.

    **Source:** Jacot et al. 2018, arXiv:1806.07572, Theorem 1.
    """

    weight: Float[Array, "out in"] | None
    bias: Float[Array, " out"] | None
    weight_std: NonNegative
    bias_std: NonNegative | None
    out_features: Count = eqx.field(static=True)
    weight_init: WeightInit = eqx.field(static=True)
    parameterization: AbstractParameterization

    def __init__(
        self,
        out_features: Count,
        *,
        weight_std: NonNegative = 1.0,
        bias_std: NonNegative | None = None,
        weight_init: WeightInit = "normal",
        parameterization: Parameterization = "ntk",
        width_multipliers: Multipliers = (1, 1),
    ):
        r"""Describe the layer; `init` draws its parameters.

        **Arguments:**

        - `out_features`: the number of outputs. The kernel does not depend on it.
        - `weight_std`: $\sigma_w$.
        - `bias_std`: $\sigma_b$, or `None` for no bias.
        - `weight_init`: how weights are drawn: `"normal"`, each for itself, or
            `"orthogonal"`, as a uniformly distributed matrix with orthogonal rows or
            columns, whichever are fewer, whose entries have the same variance. The
            kernels are those of normal weights (Huang et al. 2021, arXiv:2004.05867).
        - `parameterization`: `"ntk"` or `nn.NTK()`: standard normal parameters, scaled
            in the forward pass; `"standard"` or `nn.Standard()`: parameters drawn at
            their scale; `nn.MuP()`: maximal updates; or one of your own.
        - `width_multipliers`: the argument of `nn.Standard`, if `"standard"` is given
            by its name.

        **Raises:** `ValueError` for width multipliers that would have no effect.
        """
        self.weight, self.bias = None, None
        self.weight_std, self.bias_std = weight_std, bias_std
        self.weight_init = lowered(weight_init)
        self.out_features = plain(out_features)
        self.parameterization = as_parameterization(
            self, parameterization, width_multipliers
        )

    def init(
        self, input_shape: tuple[int, ...], *, key: PRNGKeyArray | None = None
    ) -> "Linear":
        """Draw weights for inputs with `input_shape[0]` channels."""
        channels = input_shape[0]
        out = self.parameterization.channels(self.out_features)
        return self._drawn((out, channels), Fans(channels, channels, out), key)

    def __call__(self, x: SignalT, *, key: PRNGKeyArray | None = None) -> SignalT:
        weight = self._drawn_weight()
        value, extras = unwrap(x)
        if value.shape[0] != weight.shape[1]:
            raise LayerError(
                self,
                f"takes {weight.shape[1]} channels, but the input has shape "
                f"{value.shape}, which means {value.shape[0]} of them. Channels come "
                "first, and a batch is mapped by `jax.vmap(model)(xs)`.",
            )
        multiply = lambda weight: jnp.tensordot(weight, value, 1)
        out, channels = weight.shape
        out = self._applied(multiply, weight, Fans(channels, channels, out))
        return extras.rewrap(out, extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        covariance = one_input(self, covariance)
        return self._fresh(
            covariance,
            taps=1,
            channels_in=covariance.outline.channels,
            channels=self.out_features,
        )
