"""Kernels of networks as inner products of random features."""

import functools
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._arguments import check_key, checked_choice, checked_integer, described
from eqtangents._products import tensordot
from eqtangents._types import ScalarOrBatch
from eqtangents.covariance._window_sums import TapWeights
from eqtangents.nn import AbstractLayer
from eqtangents.nn._activations import AbstractActivation
from eqtangents.nn._affine import AbstractAffine
from eqtangents.nn._conv import Conv
from eqtangents.nn._layer import LayerError, error_path
from eqtangents.nn._linear import Linear
from eqtangents.nn._parameterization import Fans
from eqtangents.nn._pool import AvgPool, GlobalAvgPool, GlobalSumPool, SumPool
from eqtangents.nn._reshape import Flatten, Identity
from eqtangents.nn._sequential import Sequential
from eqtangents.nn._spatial import padded
from eqtangents.nn._taps import relative_variances


# So many examples have their features computed at a time.
EXAMPLES_WITH_FEATURES = 64


def random_features(
    net: AbstractLayer,
    x: Float[Array, "n channels *size"],
    width: int,
    key: PRNGKeyArray,
    *,
    kind: str = "ntk",
) -> Float[Array, "n features"]:
    r"""Features whose inner products are, about, the kernel of a network.

    $$K(x, x') \approx \phi(x)^\top \phi(x')$$

    A nonlinearity $f$ makes features $f(W \phi) / \sqrt m$ of the NNGP's, and
    $f'(W \phi) \odot G \psi / \sqrt m$ of the tangent kernel's $\psi$, with random
    normal $W$ and random signs $G$; weights scale both, and append the first to the
    second. The relative error falls as $m^{-1/2}$, so that these are no substitute for
    the kernel where it has to be exact. They are a baseline that takes time and memory
    proportional to the number of examples, and what
    `eqtangents.solvers.feature_preconditioner` makes a preconditioner of.

    **Arguments:**

    - `net`: a `Sequential` of `Linear`, `Conv`, nonlinearities, `Flatten` and sums or
        averages over positions, that ends without any.
    - `x`: a batch of inputs.
    - `width`: number of features $m$ of each nonlinearity.
    - `key`: draws them. The same key gives the same features to other inputs.
    - `kind`: which kernel, `"ntk"` or `"nngp"`.

    **Returns:** an array with about `width` features for the NNGP, and for the tangent
    kernel as many more as its last layers with weights append.

    **Raises:** `LayerError`, a `ValueError`, for other layers, naming the layer and its
    path; `ValueError` or `TypeError` for arguments of another kind.

    **Cost:** of the order of `width**2` multiply-adds for each example, nonlinearity,
    position and tap of a window.

    **Source:** Zandieh, Han, Avron, Shoham, Kim & Shin 2021, arXiv:2106.07880, for
    random features and convolutions; products with random signs in the place of their
    sketch of a product, for any nonlinearity.
    """
    check_key("`key`", key)
    width = checked_integer("width", width, 1)
    kind = checked_choice("kind", kind, ("ntk", "nngp"))
    x = jnp.asarray(x)
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"`x` is {described(x)}, but must be a batch of floating numbers, "
            "`(n, channels, *spatial)`."
        )
    return _of_all(net, x, width, key, kind)


class _Features(NamedTuple):
    """Features of one example, along channels, at each position.

    `tangent` are those of the tangent kernel, and `None` before all weights.
    `channels`: how many the network itself has there.
    """

    value: Float[Array, "features *size"]
    tangent: Float[Array, "more *size"] | None
    channels: int


class _Draw(NamedTuple):
    """How features are drawn."""

    width: int
    tangent: bool
    key: PRNGKeyArray


@eqx.filter_jit
def _of_all(
    net: AbstractLayer,
    x: Float[Array, "n channels *size"],
    width: int,
    key: PRNGKeyArray,
    kind: str,
) -> Float[Array, "n features"]:
    draw = _Draw(width, kind == "ntk", key)

    def of_one(one: Float[Array, "channels *size"]) -> Float[Array, " features"]:
        start = _Features(one / math.sqrt(one.shape[0]), None, one.shape[0])
        end = _features_after(net, start, draw)
        found = end.tangent if draw.tangent else end.value
        if found is None:
            found = jnp.zeros((1, *end.value.shape[1:]), one.dtype)
        if found.ndim > 1:
            raise LayerError(
                net,
                f"ends with positions, of shape {found.shape[1:]}: add a `Flatten` or "
                "a `GlobalAvgPool` at its end.",
            )
        return found

    return lax.map(of_one, x, batch_size=EXAMPLES_WITH_FEATURES)


@functools.singledispatch
def _features_after(layer: AbstractLayer, x: _Features, draw: _Draw) -> _Features:
    """The features after a layer."""
    raise LayerError(
        layer,
        "has no random features here. Networks that have them are a `Sequential` of "
        "`Linear`, `Conv`, nonlinearities, `Flatten` and sums or averages over "
        "positions.",
    )


@_features_after.register
def _after_sequential(layer: Sequential, x: _Features, draw: _Draw) -> _Features:
    for i, one in enumerate(layer.layers):
        with error_path(f"layers[{i}]"):
            x = _features_after(one, x, draw._replace(key=jr.fold_in(draw.key, i)))
    return x


@_features_after.register(Identity)
@_features_after.register(AvgPool)
@_features_after.register(SumPool)
@_features_after.register(GlobalAvgPool)
@_features_after.register(GlobalSumPool)
def _after_linear_map(layer: AbstractLayer, x: _Features, draw: _Draw) -> _Features:
    """These act on each channel alike, and so on each feature."""
    tangent = None if x.tangent is None else layer(x.tangent)
    return x._replace(value=layer(x.value), tangent=tangent)


@_features_after.register
def _after_flatten(layer: Flatten, x: _Features, draw: _Draw) -> _Features:
    positions = math.prod(x.value.shape[1:])
    mean = lambda value: value.reshape(-1) / math.sqrt(positions)
    tangent = None if x.tangent is None else mean(x.tangent)
    return _Features(mean(x.value), tangent, x.channels * positions)


@_features_after.register
def _after_activation(
    layer: AbstractActivation, x: _Features, draw: _Draw
) -> _Features:
    value, tangent, channels = x
    if tangent is None:  # of the inputs themselves, which are not random
        scale = math.sqrt(channels)
        return x._replace(value=layer.function(scale * value) / scale)
    weight_key, sign_key = jr.split(draw.key)
    shape = draw.width, value.shape[0]
    random = jr.normal(weight_key, shape, value.dtype)
    inputs = tensordot(random, value, 1)
    outputs, slopes = jax.jvp(layer.function, (inputs,), (jnp.ones_like(inputs),))
    scale = math.sqrt(draw.width)
    if draw.tangent:
        shape = draw.width, tangent.shape[0]
        signs = jr.rademacher(sign_key, shape, value.dtype)
        tangent = slopes * tensordot(signs, tangent, 1) / scale
    return _Features(outputs / scale, tangent, channels)


@_features_after.register
def _after_fully_connected(layer: Linear, x: _Features, draw: _Draw) -> _Features:
    return _after_weights(layer, x, 1, layer.out_features, draw)


@_features_after.register
def _after_convolution(layer: Conv, x: _Features, draw: _Draw) -> _Features:
    covered = layer._windows(x.value.shape[1:])
    dilation, rank = layer.dilation, len(covered)

    def patches(
        value: Float[Array, "features *size"],
    ) -> Float[Array, "more *size_out"]:
        return lax.conv_general_dilated_patches(
            padded(value, covered)[None],
            filter_shape=[window.count for window in covered],
            window_strides=[window.stride for window in covered],
            padding="VALID",
            rhs_dilation=[dilation] * rank if isinstance(dilation, int) else dilation,
        )[0][:, *(slice(window.size_out) for window in covered)]

    if layer.groups > 1:
        raise LayerError(layer, "has random features only with `groups=1`.")
    kernel = [window.count for window in covered]
    taps = math.prod(kernel)
    if x.tangent is None:
        x = x._replace(value=patches(x.value))
    else:  # At once, for there may be no features of the tangent kernel.
        both = patches(jnp.concatenate([x.value, x.tangent]))
        value, tangent = jnp.split(both, [x.value.shape[0] * taps])
        x = x._replace(value=value, tangent=tangent)
    relative = relative_variances(layer, layer.tap_variances, kernel)
    return _after_weights(layer, x, taps, layer.out_channels, draw, relative)


def _after_weights(
    layer: AbstractAffine,
    x: _Features,
    taps: int,
    channels: int,
    draw: _Draw,
    relative: TapWeights | None = None,
) -> _Features:
    """The features after weights, of those under their windows.

    `relative`: the variances of taps, of mean one, if they are not alike.
    """
    if layer.parameterization.vanishing:
        raise LayerError(layer, "vanishes as it widens, and has no random features.")
    channels = layer.parameterization.channels(channels)
    fans = Fans(x.channels * taps, x.channels, channels)
    scale = layer._weight_scale(fans, relative)
    dtype = x.value.dtype
    number = lambda scalar: jnp.asarray(scalar, dtype)

    def times(scale: ScalarOrBatch, x: Float[Array, "f *s"]) -> Float[Array, "f *s"]:
        by_tap = jnp.ravel(number(scale)) / math.sqrt(taps)
        every = jnp.tile(by_tap, x.shape[0] // by_tap.size)
        return every.reshape(-1, *(1,) * (x.ndim - 1)) * x

    value = [times(scale.of_function, x.value)]
    tangent = [times(scale.multiplier, x.value)]
    if x.tangent is not None:
        tangent.append(times(scale.of_function, x.tangent))
    if layer.bias_std is not None:
        scale = layer.parameterization.biases(layer.bias_std, fans)
        one = jnp.ones((1, *x.value.shape[1:]), dtype)
        value.append(number(scale.of_function) * one)
        tangent.append(number(scale.multiplier) * one)
    # Without tangent kernel there are no features of it.
    both = jnp.concatenate(value), jnp.concatenate(tangent)
    return _Features(both[0], both[1] if draw.tangent else both[1][:0], channels)
