"""Sums over the channels, without weights."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents.covariance import AbstractCovariance, SummedChannels
from eqtangents.nn._inputs import Extras
from eqtangents.nn._layer import AbstractUnary, LayerError


class ChannelSum(AbstractUnary):
    r"""The sum of the channels over the root of their number, at every position.

    $$y = \frac{1}{\sqrt{C}} \sum_{c=1}^{C} x_c, \qquad K' = K, \qquad T' = T$$

    As $C$ grows it is Gaussian, by the central limit theorem, where channels have mean
    zero over weights that each has for itself: those of a layer with weights, of their
    odd functions, `tanh` say, of sums of such, and of their products with anything. An
    inner product of two branches, as that of a DeepONet, is a `ChannelSum()` after a
    `FanInProd()`.

    The output has one channel: what reads it takes it for one of many that are alike.

    **Source:** Neal 1996, Bayesian Learning for Neural Networks, section 2.1; inner
    products of two networks: Lu et al. 2021, arXiv:1910.03193.
    """

    def apply(
        self, value: Float[Array, "channels *size"], extras: Extras
    ) -> Float[Array, "1 *size"]:
        return jnp.sum(value, 0, keepdims=True) / math.sqrt(value.shape[0])

    def push(self, covariance: AbstractCovariance) -> AbstractCovariance:
        if not covariance.outline.summable:
            raise LayerError(
                self,
                "sums channels that are not known to have mean zero, each over weights "
                "of its own, so that the sum may grow with their number, or stay what "
                "it is. Sum the outputs of a `Linear`, or their products with others; "
                "or give the sum weights, by a `Linear(1)`.",
            )
        return SummedChannels(covariance)
