"""The laws of every layer."""

from collections.abc import Callable, Collection
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents import nn
from eqtangents._arguments import described
from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._inputs import Adjacency, as_input, values_of
from eqtangents.nn._layer import instead_of_layer, shape_after
from eqtangents.testing._layer_trial import (
    DRAWS,
    EXAMPLES,
    FEATURES,
    LayerLaw,
    LayerTrial,
    kernels_of_draws,
    take,
)


_STANDARD_ERRORS = 5


def check_layer(
    layer: nn.AbstractLayer,
    shape: tuple[int, ...],
    *,
    key: PRNGKeyArray | None = None,
    adjacency: Adjacency | None = None,
    finite_bias: float | int = 2.0,
    laws: Collection[LayerLaw] | None = None,
) -> None:
    """Raise unless a layer obeys the laws of all layers.

    It stands between a first `Linear` and, after a mean over positions, a last one. So
    its input is Gaussian; for what follows a nonlinearity, pass a `Sequential` of both.

    - shapes: the covariance has the channels and positions that outputs have;
    - symmetry: kernels of a batch with itself are symmetric, to the last bit, and equal
        the kernels of the batch with a copy of it, but for values that a random layer
        (as `Dropout`) draws once for an example;
    - positivity: they are positive semi-definite;
    - swap: to swap two batches transposes their kernel;
    - batching: kernels of two examples do not depend on the others of their batches,
        nor does the output of a finite network;
    - masks: what missing positions hold does not matter, neither to kernels and their
        gradients nor to finite networks;
    - finite width: the mean kernels of networks that are drawn equal the limit, within
        five standard errors, and a bias that fades with the width.

    **Arguments:**

    - `layer`: the layer, without parameters.
    - `shape`: the shape of one input of the layer, `(channels, *spatial)`. The channels
        are the width of the finite networks: some 50 of them.
    - `key`: a random key, for inputs and networks.
    - `adjacency`: graphs of four examples, for layers that aggregate.
    - `finite_bias`: the largest bias at finite width, in units of the largest entry of
        the kernel over the width.
    - `laws`: which laws to try; all by default.

    **Raises:** `AssertionError` for a broken law, with where and by how much; whatever
    the layer raises, `LayerError` if it has no kernel; `TypeError` for what is no
    layer, `ValueError` for laws that there are not.

    **Cost:** some hundred networks are drawn for the finite width.
    """
    if not isinstance(layer, nn.AbstractLayer):
        raise TypeError(
            f"check_layer: {described(layer)} is no layer. {instead_of_layer(layer)}"
        )
    laws = tuple(_LAWS) if laws is None else laws
    if unknown := set(laws) - set(_LAWS):
        raise ValueError(f"check_layer: there is no law of {', '.join(unknown)}.")
    own_key, x_key = jr.split(jr.key(0) if key is None else key)
    x = jr.normal(x_key, (EXAMPLES, FEATURES, *shape[1:]), float)
    trial = LayerTrial(layer, tuple(shape), x, adjacency, own_key, finite_bias)
    for law in laws:
        _LAWS[law](trial)


def _check_shapes(trial: LayerTrial) -> None:
    x = trial.signal()
    covariance = trial.before.propagate(as_input(x, x))
    assert isinstance(covariance, AbstractCovariance), "one layer with one output"
    outline = covariance.outline
    infinite = (outline.channels, *outline.size)
    model = trial.before.init(trial.x.shape[1:], key=trial.key)
    finite = shape_after(model, trial.x.shape[1:])
    if infinite != finite:
        raise trial.failed(
            "shapes", f"outputs have shape {finite}, but their covariance {infinite}."
        )


def _check_symmetry(trial: LayerTrial) -> None:
    x = trial.signal()
    own, copied = trial.kernel(x), trial.kernel(x, x)
    for name in ("nngp", "ntk"):
        matrix = getattr(own, name)
        trial.compare("symmetry", f"the {name}", matrix, matrix.T, 0.0)
    if trial.is_random():  # Two batches pass through a random network apart.
        rise = np.diag(own.nngp) - np.diag(copied.nngp)
        if not np.all(rise > 0):
            raise trial.failed(
                "symmetry",
                "the layer is random, but the variances of examples are no larger than "
                f"the covariances of two passes, by {rise}.",
            )
        apart = ~np.eye(EXAMPLES, dtype=bool)
        own, copied = (jax.tree.map(lambda k: k[apart], k) for k in (own, copied))
    trial.compare_kernels("symmetry", copied, own, "of a batch with a copy of it")


def _check_positivity(trial: LayerTrial) -> None:
    own = trial.kernel(trial.signal())
    rounding = 1e-12 if own.nngp.dtype == np.float64 else 1e-5
    for name in ("nngp", "ntk"):
        eigenvalues = np.linalg.eigvalsh(np.asarray(getattr(own, name), np.float64))
        if not -rounding * eigenvalues[-1] < eigenvalues[0]:
            raise trial.failed(
                "positivity",
                f"the {name} has the eigenvalue {eigenvalues[0]:.3g}, beside a largest "
                f"one of {eigenvalues[-1]:.3g}.",
            )


def _check_swap(trial: LayerTrial) -> None:
    x = trial.signal()
    first, second = (take(x, slice(start, None, 2)) for start in (0, 1))
    back = trial.kernel(second, first)
    trial.compare_kernels(
        "swap",
        trial.kernel(first, second),
        jax.tree.map(jnp.transpose, back),
        "of two batches, swapped and transposed,",
    )


def _check_batching(trial: LayerTrial) -> None:
    x = trial.signal()
    whole = trial.kernel(x)
    for i, j in ((0, 1), (1, 3), (3, 2)):
        pair = (take(x, slice(at, at + 1)) for at in (i, j))
        trial.compare_kernels(
            "batching",
            trial.kernel(*pair),
            jax.tree.map(lambda k, i=i, j=j: k[i : i + 1, j : j + 1], whole),
            f"of examples {i} and {j} alone",
        )
    model, keys = trial.drawn(), trial.keys()
    outputs = jax.vmap(lambda one, key: model(one, key=key))(x, keys)
    alone = [model(take(x, i), key=keys[i]) for i in range(EXAMPLES)]
    alone = jnp.stack([values_of(one) for one in alone])
    rounding = 1e-11 if alone.dtype == np.float64 else 2e-5
    what = "the output of a finite network for examples one by one"
    trial.compare("batching", what, alone, values_of(outputs), rounding)


def _check_masks(trial: LayerTrial) -> None:
    size = trial.shape[1:]
    if not size:
        return
    mask = jr.bernoulli(trial.key, 0.7, (EXAMPLES, *size))
    mask = mask.at[(slice(None), *(0,) * len(size))].set(True)
    mask = mask.at[0].set(True)
    there = mask[:, None]
    model, keys = trial.drawn(), trial.keys()
    # The weights before the layer would hide from it what missing positions hold.
    layer = model.layers[0].layers[1]
    hidden = jr.normal(trial.key, (EXAMPLES, *trial.shape), trial.x.dtype)

    def outputs(fill: float) -> Array:
        signal = trial.signal(jnp.where(there, hidden, fill), mask)
        out = jax.vmap(lambda one, key: layer(one, key=key))(signal, keys)
        return values_of(out)

    @eqx.filter_jit
    def at(x: Float[Array, "n features *size"]) -> Any:
        total = lambda x: trial.kernel(trial.signal(x, mask)).ntk.sum()
        return trial.kernel(trial.signal(x, mask)), jax.grad(total)(x)

    with_zeros = at(jnp.where(there, trial.x, 0.0))
    with_nan = at(jnp.where(there, trial.x, jnp.nan))
    filled = "with NaN instead of zero at missing positions"
    for name in ("nngp", "ntk"):
        pair = (getattr(one[0], name) for one in (with_nan, with_zeros))
        trial.compare("masks", f"the {name} {filled}", *pair, within=0.0)
    what = f"the output of the layer {filled}"
    trial.compare("masks", what, outputs(jnp.nan), outputs(0.0), 0.0)
    for slope in (with_zeros[1], with_nan[1]):
        if not np.all(np.isfinite(slope)):
            raise trial.failed("masks", "the NTK has gradients that are not finite.")
        what = "the gradient of the NTK at missing positions"
        missing = np.where(there, 0.0, slope)
        trial.compare("masks", what, missing, np.zeros_like(missing), 0.0)


def _check_finite_width(trial: LayerTrial) -> None:
    limit = trial.kernel(trial.signal())
    for name, draws in zip(("nngp", "ntk"), kernels_of_draws(trial), strict=True):
        expected = np.asarray(getattr(limit, name), np.float64)
        mean, stderr = draws.mean(0), draws.std(0) / DRAWS**0.5
        bias = trial.finite_bias / trial.shape[0] * np.abs(expected).max()
        excess = np.abs(mean - expected) - _STANDARD_ERRORS * stderr - bias
        at = np.unravel_index(excess.argmax(), excess.shape)
        if not excess[at] < 0:
            raise trial.failed(
                "finite width",
                f"the {name} at {tuple(map(int, at))} is {expected[at]:.4g}, but drawn "
                f"networks of width {trial.shape[0]} have {mean[at]:.4g} with a "
                f"standard error of {stderr[at]:.2g}, and the bias allowed for is "
                f"{bias:.2g}.",
            )


_LAWS: dict[LayerLaw, Callable[[LayerTrial], None]] = {
    "shapes": _check_shapes,
    "symmetry": _check_symmetry,
    "positivity": _check_positivity,
    "swap": _check_swap,
    "batching": _check_batching,
    "masks": _check_masks,
    "finite width": _check_finite_width,
}
