"""A module or a function as a function of lists of arrays, for one example."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from eqtangents._arguments import described
from eqtangents._parameters import (
    Trainable,
    call,
    check_called,
    check_trained,
    params_of,
    rates_of,
)
from eqtangents._types import Scalar
from eqtangents.nn._inputs import is_signal, values_of


class Network(eqx.Module):
    """A network as a function of its real parameters and one example."""

    params: PyTree[Array]
    rates: list[Scalar] | None  # of the parameters, where they are not all 1
    rest: PyTree
    function: Callable[..., Any] | None
    state: eqx.nn.State | None

    def __init__(
        self,
        model: Any,
        params: PyTree | None = None,
        trainable: Trainable = None,
        state: eqx.nn.State | None = None,
    ):
        """Take the parameters out of a model that has been checked.

        **Raises:** `ValueError` if there are none.
        """
        whole = model if params is None else params
        self.params = params_of(whole, trainable)
        check_trained(model, params, self.params)
        self.rates = None
        if trainable is not None:
            self.rates = _numbers(rates_of(self.params, trainable))
        self.rest = jax.tree.map(
            lambda p, x: x if p is None else None,
            self.params,
            whole,
            is_leaf=lambda leaf: leaf is None,
        )
        self.function = None if params is None else model
        self.state = state

    @property
    def leaves(self) -> list[Array]:
        """Parameters as real arrays; a complex one is two."""
        leaves = jax.tree.leaves(self.params)
        return [part for leaf in leaves for part in _real_parts(leaf)]

    @property
    def owner(self) -> list[int]:
        """For each real array, the number of its leaf."""
        leaves = jax.tree.leaves(self.params)
        return [i for i, leaf in enumerate(leaves) for _ in _real_parts(leaf)]

    def __call__(self, leaves: list[Array], example: PyTree) -> PyTree[Array]:
        """Outputs for one example, as floating-point arrays."""
        given = iter(leaves)
        params = jax.tree.map(
            lambda leaf: (
                lax.complex(next(given), next(given))
                if jnp.iscomplexobj(leaf)
                else next(given)
            ),
            self.params,
        )
        whole = eqx.combine(params, self.rest)
        found = outputs_of_one(whole, self.function, self.state, example)
        return jax.tree.map(_as_floating, eqx.filter(found, eqx.is_array_like))


def _numbers(rates: PyTree[Any]) -> list[Scalar] | None:
    """The learning rates of parameters, unless they are but picked."""
    leaves = jax.tree.leaves(rates)
    return None if all(isinstance(leaf, bool) for leaf in leaves) else leaves


def check_model(
    model: Any, params: PyTree | None, state: eqx.nn.State | None, x1: PyTree
) -> None:
    """Raise unless these are a network, its parameters and state as they are taken.

    **Raises:** `ValueError` or `TypeError`.
    """
    check_called(model, params, state, x1)
    if params is not None and not jax.tree.leaves(params):
        raise ValueError(
            f"`params` is {described(params)}, without arrays. Give the parameters "
            "that `model` takes first, or leave them out if it is a module."
        )


def outputs_of_one(
    whole: PyTree,
    function: Callable[..., Any] | None,
    state: eqx.nn.State | None,
    example: PyTree,
) -> PyTree[Array]:
    """Call a module, or a function of parameters, with one example.

    **Raises:** `ValueError` if it needs other examples than this one.
    """
    applied = whole if function is None else functools.partial(function, whole)
    with _one_example(example):
        found = call(applied, state, example)
    return jax.tree.map(values_of, found, is_leaf=is_signal)


@contextlib.contextmanager
def _one_example(example: PyTree) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not (isinstance(error, NameError) and "unbound axis name" in str(error)):
            shapes = ", ".join(
                str(jnp.shape(leaf)) for leaf in jax.tree.leaves(example)
            )
            error.add_note(
                f"The network was called with one example, of shape {shapes}."
            )
            raise
        raise ValueError(
            "The network takes statistics over a batch, as batch normalisation does in "
            "training, but a kernel compares one example with another. Take those it "
            "has gathered, by `eqx.nn.inference_mode(model)`; or make the batch one "
            "example, `x[None]`, of a function `f(params, batch)` that maps the "
            "network over it by `jax.vmap(..., axis_name=...)`."
        ) from error


@contextlib.contextmanager
def differentiable() -> Iterator[None]:
    """Turn errors of JAX into ones that say which part of a network has no derivative.

    **Raises:** `ValueError`
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        if isinstance(error, ValueError) and "lax.while_loop" in str(error):
            raise ValueError(_ENDLESS) from error
        if isinstance(error, TypeError) and "custom_vjp function" in str(error):
            raise ValueError(_BACKWARDS_ALONE) from error
        raise


_ENDLESS = (
    "The network has a loop whose number of steps is not known beforehand "
    "(`jax.lax.while_loop`, or `fori_loop` with bounds that are traced), which has no "
    "derivative backwards. Use `jax.lax.scan`, or `fori_loop` with bounds that are "
    "Python numbers; `eqt.taylorize` expands such a network as it is."
)
_BACKWARDS_ALONE = (
    "The network has a `jax.custom_vjp`, whose derivative is defined backwards alone, "
    "but products with this kernel need both. Compute the kernel itself, by "
    "`eqt.empirical_ntk`."
)


def _real_parts(leaf: Array) -> tuple[Array, ...]:
    return (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (jnp.asarray(leaf),)


def _as_floating(output: Any) -> Array:
    output = jnp.asarray(output)
    if jnp.issubdtype(output.dtype, jnp.floating):
        return output
    if jnp.issubdtype(output.dtype, jnp.complexfloating):
        raise ValueError(
            f"The network has an output of dtype {output.dtype}, but only real outputs "
            "have a tangent kernel. Return real and imaginary part."
        )
    return output.astype(jnp.result_type(float))


def parameter_names(network: Network) -> list[str]:
    """Where each of the real arrays of `leaves` is in the parameters."""
    found = jax.tree_util.tree_leaves_with_path(network.params)
    names = [jax.tree_util.keystr(path).lstrip(".") or "params" for path, _ in found]
    return [names[i] for i in network.owner]
