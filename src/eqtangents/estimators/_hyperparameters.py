"""The network that hyperparameters make, as grids of scikit-learn give them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from eqtangents import nn
from eqtangents._arguments import checked_integer, described
from eqtangents._types import NonNegative, is_real
from eqtangents.nn import AbstractActivation, AbstractLayer


def network_of(
    net: AbstractLayer | Callable[..., AbstractLayer] | None,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> AbstractLayer:
    """The network itself, or what a function makes of hyperparameters.

    **Arguments:**

    - `net`: a network, or a function that takes some hyperparameters by name.
    - `given`: all of them. Standard deviations are handed on as arrays, so that others
        need no other program.
    - `defaults`: what they are if nobody gives them.

    **Raises:** `TypeError` for what is neither; `ValueError` for hyperparameters that
    would change nothing.
    """
    if isinstance(net, AbstractLayer):
        takes = set()
    elif callable(net) or net is None:
        net = _fully_connected if net is None else net
        taken = inspect.signature(net).parameters
        takes = set(taken)
        _check_takes_hyperparameters(net, taken, given)
    else:
        raise TypeError(
            f"`net` is {described(net)}, but must be a network of `eqtangents.nn`, or "
            "a function of hyperparameters that returns one, or `None`."
        )
    for name in given.keys() - takes:
        if given[name] is not defaults[name] and given[name] != defaults[name]:
            raise ValueError(
                f"`{name}` is {described(given[name])}, but changes nothing, as `net` "
                f"is {described(net)}. Let `net` be a function that takes `{name}` and "
                "returns the network."
            )
    if isinstance(net, AbstractLayer):
        return net
    made = net(**{name: _handed_on(name, given[name]) for name in takes & given.keys()})
    if not isinstance(made, AbstractLayer):
        raise TypeError(
            f"`net` returned {described(made)}, but must return a network of "
            "`eqtangents.nn`."
        )
    return made


def _check_takes_hyperparameters(
    net: Any, taken: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> None:
    optional = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    for name, one in taken.items():
        if name not in given and one.default is one.empty and one.kind not in optional:
            raise TypeError(
                f"`net` is {described(net)}, and takes `{name}`, but a function that "
                f"returns a network may take {', '.join(map(repr, given))} alone. Of a "
                "model, give the network: `eqt.from_equinox(model, X[0])`."
            )


def _handed_on(name: str, value: Any) -> Any:
    is_std = name.endswith("_std") and is_real(value)
    return jnp.asarray(value, float) if is_std else value


def _fully_connected(
    depth: int,
    activation: str | AbstractActivation,
    weight_std: NonNegative,
    bias_std: NonNegative | None,
) -> AbstractLayer:
    """Hidden layers, and a readout whose weights have the standard deviation 1."""
    depth = checked_integer("depth", depth, 0)
    linear = nn.Linear(1, weight_std=weight_std, bias_std=bias_std)
    hidden = nn.Sequential([linear, _activation_of(activation)])
    # The first one changes the shape of its input; the others compile as one.
    layers = [hidden, nn.Repeat(hidden, depth - 1)] if depth else []
    return nn.Sequential([*layers, nn.Linear(1, bias_std=bias_std)])


def _needs_arguments(layer: type[AbstractActivation]) -> bool:
    _, *taken = inspect.signature(layer.__init__).parameters.values()
    optional = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return any(one.default is one.empty and one.kind not in optional for one in taken)


_ACTIVATIONS = {
    name.lower(): layer
    for name, layer in vars(nn).items()
    if isinstance(layer, type)
    and issubclass(layer, AbstractActivation)
    and not (inspect.isabstract(layer) or _needs_arguments(layer))
}


def _activation_of(activation: str | AbstractActivation) -> AbstractActivation:
    if isinstance(activation, AbstractActivation):
        return activation
    if not isinstance(activation, str) or activation.lower() not in _ACTIVATIONS:
        raise ValueError(
            f"`activation` is {described(activation)}, but must be a nonlinearity, "
            '`nn.LeakyRelu(0.1)`, say, or the name of one: "relu", "erf", "tanh", '
            '"gelu", ...'
        )
    return _ACTIVATIONS[activation.lower()]()
