"""A module or a function as a function of lists of arrays, for one example."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree, Shaped

from eqtangents._linearization import Trainable, nothing_trainable, params_of


class Network(eqx.Module):
    """What a kernel is that of: real parameters, and how they act on one example."""

    params: PyTree[Array]
    rest: PyTree
    function: Callable[..., Any] | None

    def __init__(self, model: Any, params: PyTree | None, trainable: Trainable):
        """Tell parameters from the rest.

        **Raises:** `ValueError` if there are none.
        """
        if not callable(model):
            raise ValueError(
                f"`model` is a {type(model).__name__}, which cannot be called. Give a "
                "module that takes one example, or a function of parameters and one "
                "example together with `params`."
            )
        whole = model if params is None else params
        test = trainable if params is None else eqx.is_inexact_array
        self.params = params_of(whole, test)
        self.rest = jax.tree.map(
            lambda p, x: x if p is None else None,
            self.params,
            whole,
            is_leaf=lambda leaf: leaf is None,
        )
        self.function = None if params is None else model
        if not jax.tree.leaves(self.params):
            raise ValueError(nothing_trainable(model, params))

    @property
    def leaves(self) -> list[Array]:
        """Parameters as real arrays; a complex one is two."""
        return [part for leaf in jax.tree.leaves(self.params) for part in _parts(leaf)]

    @property
    def owner(self) -> list[int]:
        """For each real array, which leaf it is of."""
        leaves = jax.tree.leaves(self.params)
        return [i for i, leaf in enumerate(leaves) for _ in _parts(leaf)]

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
        if self.function is None:
            outputs = eqx.combine(params, self.rest)(example)
        else:
            outputs = self.function(eqx.combine(params, self.rest), example)
        return jax.tree.map(_as_floating, eqx.filter(outputs, eqx.is_array_like))


def _parts(leaf: Array) -> tuple[Array, ...]:
    return (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (jnp.asarray(leaf),)


def _as_floating(output: Any) -> Array:
    output = jnp.asarray(output)
    if jnp.issubdtype(output.dtype, jnp.floating):
        return output
    if jnp.issubdtype(output.dtype, jnp.complexfloating):
        raise ValueError(
            f"The network has an output of dtype {output.dtype}, but a tangent kernel "
            "is that of real outputs. Return real and imaginary part."
        )
    return output.astype(jnp.result_type(float))


def parameter_names(network: Network) -> list[str]:
    """Where each of the real arrays of `leaves` is in the parameters."""
    found = jax.tree_util.tree_leaves_with_path(network.params)
    names = [jax.tree_util.keystr(path).lstrip(".") for path, _ in found]
    return [names[i] for i in network.owner]


def count_examples(name: str, x: PyTree[Shaped[Array, "..."]]) -> int:
    """The size of the leading axis.

    **Raises:** `ValueError` unless all arrays have one, of the same size.
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(x)]
    sizes = {shape[0] if shape else None for shape in shapes}
    if len(sizes) != 1 or None in sizes:
        found = ", ".join(map(str, shapes)) or "none"
        raise ValueError(
            f"`{name}` must be a batch: arrays with one leading axis of examples, of "
            f"the same size. The shapes are: {found}. For one example, pass `x[None]`."
        )
    (size,) = sizes
    assert size is not None
    return size


def size_of(x: PyTree[Array]) -> int:
    """The number of examples of a batch that has been checked."""
    return jax.tree.leaves(x)[0].shape[0]


def example_of(x: PyTree[Array]) -> PyTree[jax.ShapeDtypeStruct]:
    """Shape and type of one example of a batch."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x
    )


def check_alike(x1: PyTree[Array], x2: PyTree[Array]) -> None:
    """Raise unless examples of both batches have the same shapes and types."""
    one, other = example_of(x1), example_of(x2)
    for describe in (jax.tree.structure, str):
        if describe(one) != describe(other):
            raise ValueError(
                f"An example of `x1` is {describe(one)}, one of `x2` "
                f"{describe(other)}, but both must be what the network takes, with a "
                "leading axis of examples."
            )
