"""Which arrays of a network are its parameters, and how it is called."""

import collections.abc
import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from eqtangents._arguments import described
from eqtangents._trees import Params
from eqtangents._types import is_concrete, is_real
from eqtangents.nn import AbstractLayer
from eqtangents.nn._inputs import is_signal


Model = TypeVar("Model", bound=Callable[..., Any])

# Which arrays are parameters: a test of leaves, or a tree of booleans, or of learning
# rates, with the structure of module or parameters, or a prefix of it. `None` is the
# default.
Trainable: TypeAlias = Callable[[Any], bool] | Params | None


def params_of(whole: PyTree, trainable: Trainable) -> PyTree[Array]:
    """The parameters among the leaves of a tree, with `None` in place of the others.

    By default they are its floating-point and complex arrays, but for hyperparameters
    of layers of `eqtangents.nn`: fields that may be Python numbers, or functions. A
    kernel of infinite width takes these as given.

    **Raises:** `TypeError` or `ValueError` if `trainable` is neither a test nor a tree
    that fits.
    """
    if trainable is None:
        chosen = eqx.filter(whole, _not_hyperparameters(whole))
        return eqx.filter(chosen, eqx.is_inexact_array)
    params = eqx.filter(whole, eqx.is_inexact_array)
    return jax.tree.map(
        lambda rate, leaf: leaf if eqx.is_array(rate) or rate else None,
        rates_of(params, trainable),
        params,
        is_leaf=lambda node: node is None,
    )


def rates_of(params: PyTree[Array], trainable: Trainable) -> PyTree[Array | float]:
    """The learning rate of each parameter, `None` where there is none.

    Where `trainable` picks, rates are booleans.

    **Raises:** `TypeError` or `ValueError` if it does not fit the parameters.
    """
    for leaf in jax.tree.leaves(trainable):
        _check_rate(leaf)

    def below(chosen: Any, params: PyTree[Array]) -> PyTree[Array | float]:
        if chosen is None:  # No parameter was there before `init`.
            chosen = False
        if callable(chosen):
            return jax.tree.map(lambda leaf: bool(chosen(leaf)), params)
        if isinstance(chosen, np.ndarray):
            chosen = jnp.asarray(chosen) if chosen.ndim else chosen.item()
        return jax.tree.map(lambda _: chosen, params)

    try:
        is_leaf = lambda node: node is None
        return jax.tree.map(below, trainable, params, is_leaf=is_leaf)
    except ValueError:
        raise ValueError(
            f"`trainable` is {described(trainable)}, which does not fit the "
            f"parameters, {described(params)}. As a tree it has their structure, or "
            "stops early where one boolean or number holds for all below: make it by "
            "`jax.tree.map(lambda _: False, ...)` and `eqx.tree_at`."
        ) from None


def check_picks(trainable: Trainable) -> None:
    """Raise `TypeError` for learning rates where parameters can but be picked."""
    for leaf in jax.tree.leaves(trainable):
        if not (callable(leaf) or isinstance(leaf, bool | np.bool_)):
            raise TypeError(
                f"`trainable` has {described(leaf)}, but must be a test of leaves, "
                "`eqx.is_inexact_array` say, or a tree of booleans."
            )


def _check_rate(leaf: Any) -> None:
    if callable(leaf) or isinstance(leaf, bool | np.bool_):
        return
    if is_real(leaf) and _is_not_negative(leaf):
        return
    raise TypeError(
        f"`trainable` has {described(leaf)}, but must be a test of leaves, "
        "`eqx.is_inexact_array` say, or a tree of booleans or of learning rates, which "
        "are not negative."
    )


def _is_not_negative(leaf: Any) -> bool:
    """Whether numbers may be learning rates, as far as they are known."""
    if isinstance(leaf, np.ndarray | jax.Array) and not is_concrete(leaf):
        return True
    values = np.asarray(leaf)
    return bool(np.all((values >= 0) & np.isfinite(values)))


def marked(params: PyTree[Array]) -> PyTree[bool]:
    """A tree that is true at each parameter, and false at `None`."""
    return jax.tree.map(
        lambda leaf: leaf is not None, params, is_leaf=lambda leaf: leaf is None
    )


def _not_hyperparameters(tree: PyTree) -> PyTree[bool]:
    """Which leaves are not hyperparameters of layers of `eqtangents.nn`."""
    return jax.tree.map(
        lambda node: _marked_fields(node) if isinstance(node, AbstractLayer) else True,
        tree,
        is_leaf=lambda node: isinstance(node, AbstractLayer),
    )


def _marked_fields(module: eqx.Module) -> eqx.Module:
    """Which leaves of a layer are not its hyperparameters, field by field."""
    fields, treedef = jax.tree_util.tree_flatten_with_path(
        module, is_leaf=lambda node: node is not module
    )
    given = _hyperparameters(type(module))

    def within(name: str, value: Any) -> Any:
        if name in given:
            return jax.tree.map(lambda _: False, value)
        return jax.tree.map(
            lambda node: _marked_fields(node) if isinstance(node, eqx.Module) else True,
            value,
            is_leaf=lambda node: isinstance(node, eqx.Module),
        )

    return treedef.unflatten(within(path[0].name, value) for path, value in fields)


@functools.cache
def _hyperparameters(layer: type) -> frozenset[str]:
    """Fields that may be Python numbers or functions, by their annotations."""
    try:
        annotations = typing.get_type_hints(layer)
    except NameError:  # of names that only type checkers see
        annotations = {}
    return frozenset(
        field.name
        for field in dataclasses.fields(layer)
        if _is_given(annotations.get(field.name, field.type))
    )


def _is_given(annotation: Any) -> bool:
    if annotation in (float, int, collections.abc.Callable):
        return True
    if typing.get_origin(annotation) is collections.abc.Callable:
        return True
    return any(map(_is_given, typing.get_args(annotation)))


def check_called(
    model: Any, params: PyTree | None, state: Any, inputs: PyTree = None
) -> None:
    """Raise unless this is a network as public functions take it.

    **Raises:** `ValueError` if it cannot be called, or has state that is not given;
    `TypeError` if it is a class, or the state is none.
    """
    if isinstance(model, type):
        raise TypeError(
            f"`model` is the class `{model.__name__}`, but must be a network. Give an "
            f"instance, `{model.__name__}(...)`."
        )
    if not callable(model):
        raise ValueError(
            f"`model` is {described(model)}, which cannot be called. "
            f"{_instead_of(model, params, inputs)}"
        )
    if state is not None and not isinstance(state, eqx.nn.State):
        raise TypeError(
            f"`state` is {described(state)}, but must be the `eqx.nn.State` that came "
            "with the model: `model, state = eqx.nn.make_with_state(Model)(...)`."
        )
    if params is None and isinstance(model, eqx.Module):
        if state is None and needs_state(model):
            raise missing_state(model)
        if state is not None and not needs_state(model):
            raise ValueError(
                f"`state` was given, but no layer of {described(model)} keeps any. "
                "Leave `state` out."
            )


def _instead_of(model: Any, params: PyTree | None, inputs: PyTree) -> str:
    """The advice about a model that cannot be called."""
    if is_network(inputs):
        return "`model` and `x1` seem to be swapped: the network comes first."
    if is_network(params):
        return "`model` and `params` seem to be swapped: the function comes first."
    if isinstance(model, tuple) and any(isinstance(m, eqx.nn.State) for m in model):
        return "Take the pair apart, and give the second half as `state=`."
    if isinstance(model, list | tuple) and all(map(callable, model)):
        return "Make it one network, by `nn.Sequential([...])`."
    return (
        "Give a module that takes one example, or a function of parameters and one "
        "example together with `params`."
    )


def is_network(value: Any) -> bool:
    """Whether this can be called, and is neither an input nor a class."""
    return callable(value) and not is_signal(value) and not isinstance(value, type)


def check_trained(model: Any, params: PyTree | None, found: PyTree[Array]) -> None:
    """Raise `ValueError` if no parameters were found."""
    if not jax.tree.leaves(found):
        raise _nothing_trainable(model, params)


def _nothing_trainable(model: Any, params: PyTree | None) -> ValueError:
    if params is not None:
        return ValueError(
            f"`params` is {described(params)}, of which nothing is to be "
            "differentiated in: of floating-point and complex arrays, `trainable` must "
            "pick at least one. Convert integer parameters, or check the order of "
            "arguments."
        )
    if not isinstance(model, eqx.Module):
        return ValueError(
            f"No leaf of {described(model)} is trainable: for a plain function pass "
            "its `params` too, and the function is called as `f(params, example)`."
        )
    return ValueError(
        f"No leaf of the `{type(model).__name__}` is trainable: `trainable` must pick "
        "at least one floating-point or complex array. A network of `eqtangents.nn` "
        "has parameters after `model = net.init(x.shape[1:], key=key)`; "
        "hyperparameters given as arrays are none unless `trainable` says so."
    )


def _is_state_index(node: Any) -> bool:
    return isinstance(node, eqx.nn.StateIndex)


def is_state(node: Any) -> bool:
    """Whether this is the state of an Equinox model."""
    return isinstance(node, eqx.nn.State)


def needs_state(model: Any) -> bool:
    """Whether layers of a model keep state that is not held by the model itself."""
    nodes = jax.tree.leaves(model, is_leaf=lambda n: _is_state_index(n) or is_state(n))
    return any(map(_is_state_index, nodes)) and not any(map(is_state, nodes))


def missing_state(model: Any) -> ValueError:
    """The error about a model whose state was not given."""
    return ValueError(
        f"`model` is {described(model)} with layers that keep state, as "
        "`eqx.nn.BatchNorm` does, but no state came with it. Pass `state=state`, of "
        "`model, state = eqx.nn.make_with_state(Model)(...)`; with batch "
        "normalisation, `eqx.nn.inference_mode(model)` for `model`."
    )


def call(function: Callable[..., Any], state: Any, *args: Any, **kwargs: Any) -> Any:
    """Outputs of a network; with state, that comes last, and the new one is dropped."""
    if state is None:
        return function(*args, **kwargs)
    # Equinox lets each state be read once it is replaced no more: hence a copy.
    found = function(*args, jax.tree.map(lambda leaf: leaf, state), **kwargs)
    if not (isinstance(found, tuple) and len(found) == 2 and is_state(found[1])):
        _no_state_returned(found)
    return found[0]


def _no_state_returned(found: Any) -> NoReturn:
    raise ValueError(
        f"`state` was given, but the network returned {described(found)}. With state "
        "it is called as `model(x, state)`, and returns outputs and the new state, "
        "`(outputs, state)`. Leave `state` out if it keeps none."
    )
