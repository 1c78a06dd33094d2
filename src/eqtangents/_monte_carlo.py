"""Kernels by sampling networks of finite width."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray, PyTree, Shaped

from eqtangents._linearization import Trainable
from eqtangents.empirical import EmpiricalKernel, Estimate, empirical_kernel
from eqtangents.empirical._network import size_of
from eqtangents.nn import AbstractLayer
from eqtangents.nn._inputs import is_signal, values_of
from eqtangents.nn._layer import Example


Batch: TypeAlias = PyTree[Shaped[Array, "..."]]


def monte_carlo(
    net: AbstractLayer | Callable[[PRNGKeyArray], Any],
    x1: Batch,
    x2: Batch | None,
    key: PRNGKeyArray,
    n_samples: int,
    *,
    trainable: Trainable = eqx.is_inexact_array,
    trace_axes: Sequence[int] = (0,),
    diagonal_axes: Sequence[int] = (),
    batch_size: int = 1,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> Estimate:
    r"""Both kernels of a network, averaged over random parameters.

    As the network gets wider they approach `eqtangents.kernel`, which they agree with
    in shape, at the rate of one over the square root of width and samples.

    **Arguments:**

    - `net`: a network of `eqtangents.nn`, or any function of a key that returns a
        module, initialised.
    - `x1`, `x2`: batches, as for `eqtangents.kernel` or `eqtangents.empirical_ntk`;
        `None` for `x1` again, in the same passes: what a `Dropout` drops is drawn once
        for each example of a batch.
    - `key`: draws the parameters. The same key gives the same samples, whatever the
        batch size.
    - `n_samples`: how many networks to draw, at least 2.
    - `trainable`, `trace_axes`, `diagonal_axes`: as for `eqtangents.empirical_ntk`; by
        default averaged over the channels.
    - `batch_size`: how many networks to evaluate at a time, on each device.
    - `mesh`: devices to spread them over, along all of its axes.
    - `progress`: is called with the number of samples drawn, after each batch.

    **Returns:** an `Estimate`: `mean` and `standard_error` are `EmpiricalKernel`s.

    **Raises:** `ValueError` if there are fewer than 2 samples, or the batch is empty.
    """
    (last,) = running_monte_carlo(
        net,
        x1,
        x2,
        key,
        [n_samples],
        trainable=trainable,
        trace_axes=trace_axes,
        diagonal_axes=diagonal_axes,
        batch_size=batch_size,
        mesh=mesh,
        progress=progress,
    )
    return last


def running_monte_carlo(
    net: AbstractLayer | Callable[[PRNGKeyArray], Any],
    x1: Batch,
    x2: Batch | None,
    key: PRNGKeyArray,
    n_samples: Iterable[int],
    *,
    trainable: Trainable = eqx.is_inexact_array,
    trace_axes: Sequence[int] = (0,),
    diagonal_axes: Sequence[int] = (),
    batch_size: int = 1,
    mesh: Mesh | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Estimate]:
    """Estimates after some numbers of samples, the later ones from all before.

    Arguments and errors are those of `eqtangents.monte_carlo`, but for `n_samples`: at
    which numbers of samples to give an estimate, in any order.
    """
    counts = sorted({*n_samples})
    if not counts or counts[0] < 2:
        raise ValueError(
            f"`n_samples` is {counts}, but a standard error needs at least 2 samples."
        )
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size}, but must be at least 1.")
    axes = (tuple(trace_axes), tuple(diagonal_axes))
    keys = jr.split(key, counts[-1])
    at_a_time = batch_size * (1 if mesh is None else mesh.size)
    moments, drawn = None, 0
    for count in counts:
        while drawn < count:
            stop = min(drawn + at_a_time, count)
            some = keys[drawn:stop]
            if mesh is not None and (stop - drawn) % mesh.size == 0:
                # Without axis types: of the networks, nothing is to be annotated.
                devices = Mesh(mesh.devices, mesh.axis_names)
                over = NamedSharding(devices, PartitionSpec(mesh.axis_names))
                some = jax.device_put(some, over)
            found = _sampled(net, x1, x2, some, trainable, axes)
            moments = _merged(moments, found, drawn)
            drawn = stop
            if progress is not None:
                progress(drawn)
        assert moments is not None
        mean, squares = moments
        scale = 1 / (drawn * (drawn - 1))
        yield Estimate(mean, jax.tree.map(lambda s, c=scale: jnp.sqrt(c * s), squares))


@eqx.filter_jit
def _sampled(
    net: AbstractLayer | Callable[[PRNGKeyArray], Any],
    x1: Batch,
    x2: Batch | None,
    keys: Shaped[Array, "..."],
    trainable: Trainable,
    axes: tuple[tuple[int, ...], tuple[int, ...]],
) -> EmpiricalKernel:
    """Kernels of one network for each key."""

    def one(key: PRNGKeyArray) -> EmpiricalKernel:
        draw_key, *pass_keys = jr.split(key, 3)
        model, which = _drawn(net, x1, draw_key), trainable
        one1, one2 = x1, x2
        if isinstance(model, AbstractLayer):
            # Each example passes through it once, on its own.
            model = _Pass(model)
            which = trainable if callable(trainable) else _Pass(trainable)
            one1, one2 = (
                None if x is None else (x, jr.split(k, size_of(x)))
                for x, k in zip((x1, x2), pass_keys, strict=True)
            )
        return empirical_kernel(
            model,
            one1,
            one2,
            trainable=which,
            trace_axes=axes[0],
            diagonal_axes=axes[1],
        )

    return jax.vmap(one)(keys)


class _Pass(eqx.Module):
    """A network's values for an example and a key, for the values that it drops."""

    net: Any

    def __call__(self, x_and_key: tuple[Example, PRNGKeyArray]) -> PyTree[Array]:
        x, key = x_and_key
        return jax.tree.map(values_of, self.net(x, key=key), is_leaf=is_signal)


def _drawn(
    net: AbstractLayer | Callable[[PRNGKeyArray], Any], x1: Batch, key: PRNGKeyArray
) -> Any:
    if not isinstance(net, AbstractLayer):
        return net(key)
    shape_of_one = lambda x: values_of(x).shape[1:]
    return net.init(jax.tree.map(shape_of_one, x1, is_leaf=is_signal), key=key)


@eqx.filter_jit
def _merged(
    moments: tuple[Any, Any] | None, found: EmpiricalKernel, drawn: int
) -> tuple[Any, Any]:
    """Mean and sum of squared deviations, with new samples.

    **Source:** Chan et al. 1979, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances".
    """
    mean = jax.tree.map(lambda s: jnp.mean(s, axis=0), found)
    squares = jax.tree.map(
        lambda s, m: jnp.sum((s - m[None]) ** 2, axis=0), found, mean
    )
    if moments is None:
        return mean, squares
    new = jax.tree.leaves(found)[0].shape[0]
    share = new / (drawn + new)
    step = jax.tree.map(jnp.subtract, mean, moments[0])
    return (
        jax.tree.map(lambda m, s: m + share * s, moments[0], step),
        jax.tree.map(
            lambda a, b, s: a + b + drawn * share * s**2, moments[1], squares, step
        ),
    )
