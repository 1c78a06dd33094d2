"""Networks of finite width that are drawn at random, and means of their kernels."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PRNGKeyArray, PyTree, Shaped

from eqtangents._arguments import described
from eqtangents._gram._placement import AnyMesh, in_any_mesh
from eqtangents._parameters import (
    Trainable,
    check_trained,
    is_network,
    is_state,
    marked,
    params_of,
    rates_of,
)
from eqtangents._trees import Batch
from eqtangents.empirical import (
    Estimate,
    empirical_kernel,
    empirical_nngp,
    empirical_ntk,
)
from eqtangents.empirical._batches import size_of
from eqtangents.empirical._over_mesh import by_example
from eqtangents.nn import AbstractLayer
from eqtangents.nn._inputs import is_signal, values_of
from eqtangents.nn._layer import Example


Net: TypeAlias = AbstractLayer | Callable[[PRNGKeyArray], Any]
WhichKernels: TypeAlias = Literal["both", "nngp", "ntk"]


def check_net(net: Any, x1: Any, key: Any) -> None:
    """Raise `TypeError` unless networks can be drawn from this."""
    if isinstance(net, AbstractLayer):
        return
    if isinstance(net, type) or not callable(net):
        if is_network(x1):
            instead = "`net` and `x1` seem to be swapped: the network comes first."
        elif isinstance(net, type):
            instead = (
                f"Give an instance, or a function `lambda key: {net.__name__}(...)`."
            )
        elif isinstance(net, list | tuple):
            instead = "Make it one network, by `nn.Sequential([...])`."
        else:
            instead = "Write `lambda key: ...`."
        raise TypeError(
            f"`net` is {described(net)}, but must be a network of `eqtangents.nn`, or "
            f"a function of a key that returns a module. {instead}"
        )
    holds_arrays = bool(jax.tree.leaves(eqx.filter(net, eqx.is_array)))
    if holds_arrays and not isinstance(net, eqx.Partial):
        try:
            eqx.filter_eval_shape(net, key)
        except Exception as error:
            raise TypeError(_drawn_already(net)) from error


def _drawn_already(net: Any) -> str:
    name = type(net).__name__
    return (
        f"`net` is {described(net)} with the parameters it has, but samples draw them "
        f"anew. Pass a function of a key, `lambda key: {name}(..., key=key)`; the "
        "kernels at these parameters are `eqtangents.empirical_kernel(model, x1, x2)`."
    )


class Sampled(NamedTuple):
    """What networks are drawn, and which kernels of theirs are computed."""

    net: Net
    x1: Batch
    x2: Batch | None
    trainable: Trainable
    kernels: WhichKernels
    trace_axes: tuple[int, ...] | None
    diagonal_axes: tuple[int, ...]


@eqx.filter_jit
def kernels_of_samples(sampled: Sampled, keys: Shaped[Array, "..."]) -> PyTree:
    """The kernels of one network for each key."""
    net, x1, x2, trainable, kernels, trace_axes, diagonal_axes = sampled

    def one(key: PRNGKeyArray) -> PyTree:
        draw_key, *pass_keys = jr.split(key, 3)
        model, state = _drawn_network(net, x1, draw_key)
        which: Any = trainable
        one1: Any = x1
        one2: Any = x2
        if isinstance(model, AbstractLayer):
            if kernels != "nngp":
                params = params_of(model, trainable)
                check_trained(model, None, params)
                chosen = marked(params)
                if trainable is not None:
                    chosen = rates_of(params, trainable)
                which = _Pass(chosen)
            # Each example passes through it once, on its own.
            model = _Pass(model)
            one1, one2 = (
                None if x is None else (x, jr.split(k, size_of(x)))
                for x, k in zip((x1, x2), pass_keys, strict=True)
            )
        options: Any = {
            "state": state,
            "trace_axes": trace_axes,
            "diagonal_axes": diagonal_axes,
        }
        if kernels == "nngp":
            return empirical_nngp(model, one1, one2, **options)
        kernel = empirical_ntk if kernels == "ntk" else empirical_kernel
        return kernel(model, one1, one2, trainable=which, **options)

    return jax.vmap(one)(keys)


class _Pass(eqx.Module):
    """A network's values for an example and a key, for the values that it drops."""

    net: Any

    def __call__(self, x_and_key: tuple[Example, PRNGKeyArray]) -> PyTree[Array]:
        x, key = x_and_key
        return self.net(x, key=key)


def _drawn_network(
    net: Net, x1: Batch, key: PRNGKeyArray
) -> tuple[Any, eqx.nn.State | None]:
    """A network, and its state."""
    if isinstance(net, AbstractLayer):
        shape_of_one = lambda x: values_of(x).shape[1:]
        return net.init(
            jax.tree.map(shape_of_one, x1, is_leaf=is_signal), key=key
        ), None
    found = net(key)
    if isinstance(found, tuple) and len(found) == 2 and is_state(found[1]):
        return found
    if not is_network(found):
        raise TypeError(
            f"`net` returned {described(found)} for a key, but must return a module "
            "that takes one example, or a pair of one and its state."
        )
    return found, None


def running_estimates(
    sampled: Sampled,
    key: PRNGKeyArray,
    counts: list[int],
    batch_size: int,
    mesh: AnyMesh | None,
    progress: Callable[[int], None] | None,
) -> Iterator[Estimate[Any]]:
    """One after each count of samples."""
    keys = jr.split(key, counts[-1])
    at_a_time = batch_size * (1 if mesh is None else mesh.size)
    moments, drawn = None, 0
    for count in counts:
        while drawn < count:
            stop = min(drawn + at_a_time, count)
            some = sampled, keys[drawn:stop], mesh
            found = in_any_mesh(by_example, kernels_of_samples, *some)
            moments = _merged(moments, found, drawn)
            drawn = stop
            if progress is not None:
                progress(drawn)
        assert moments is not None
        mean, squares = moments
        scale = 1 / (drawn * (drawn - 1))
        yield Estimate(mean, jax.tree.map(lambda s, c=scale: jnp.sqrt(c * s), squares))


@eqx.filter_jit
def _merged(
    moments: tuple[Any, Any] | None, found: PyTree, drawn: int
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
