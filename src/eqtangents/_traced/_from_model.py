"""Networks of layers, read from models as people write them."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
from jaxtyping import Array, PyTree

from eqtangents import nn
from eqtangents._arguments import check, described, rule_of
from eqtangents._equinox import Scales, lift
from eqtangents._equinox._affine import UNIFORM_STD
from eqtangents._kernel_habits import FINITE_HABITS
from eqtangents._signatures import names_checked
from eqtangents._traced._dropout import with_marked_dropout
from eqtangents._traced._from_program import network_of_program
from eqtangents._traced._parameters import Parameters, leaves_of
from eqtangents._trees import Params
from eqtangents._types import NonNegative, Rule, Scalar, known_value
from eqtangents.nn._parameterization import (
    IS_PARAMETERIZATION,
    AbstractParameterization,
    Fans,
    Parameterization,
    as_parameterization,
)


@names_checked(FINITE_HABITS)
def from_equinox(
    model: Callable[..., Any],
    example: Any = None,
    *,
    weight_std: Scalar | None = None,
    bias_std: Scalar | None = None,
    parameterization: Parameterization = "standard",
) -> nn.AbstractLayer:
    r"""The network of layers that a model of Equinox is.

    It has the parameters of the model, so that it is the same function. Its kernels are
    the model's at Equinox's initialisation: parameters uniform in
    $\pm 1 / \sqrt{\text{fan\_in}}$ have variance $1 / (3\, \text{fan\_in})$, which is
    $\sigma_w^2 = 1/3$ and $\sigma_b^2 = 1 / (3\, \text{fan\_in})$. Kernels depend on
    the distribution no further where layers read many inputs. Sums of few uniform
    weights are not Gaussian: of networks of one to four features, the kernels here are
    those of normal weights, a few per cent from those of the model as it is drawn.

    So biases fade as layers widen, except in a layer that reads the input of the
    network, whose fan-in stays. Here each bias has the variance that it has at the
    width of this very model, which differs from the limit by the order of
    1 / width, as the model does itself. In the standard parameterisation, which
    is Equinox's, the NTK grows with the widths, and is computed for the widths of this
    model.

    **Arguments:**

    - `model`: a module or a function. With an example, its `__call__` is read: layers
        of `equinox.nn`, parameters of its own, and functions of JAX, in any order.
        Without one, it may be made of `Linear`, `MLP`, `Conv`, `ConvTranspose`,
        `AvgPool`, `MaxPool`, `LayerNorm`, `RMSNorm`, `GroupNorm`, `Dropout`, `PReLU`,
        `Identity`, `Lambda` and `Sequential` of `equinox.nn`, `AdaptiveAvgPool` to a
        single position, functions, and layers of `eqtangents.nn`, which stay as they
        are. Such a function is recognised by identity or values: it may be elementwise,
        flatten its input, or take the mean over all positions, as of inputs with the
        fewest axes that it takes, if no convolution or pooling before it says how many
        there are.
    - `example`: an input of the model, or its shape and dtype as a
        `jax.ShapeDtypeStruct`; a tuple for a model with several inputs. If the model
        takes a key, it is given one.
    - `weight_std`, `bias_std`: $\sigma_w$ and $\sigma_b$ of all layers, and of all
        layers that have biases, instead of the deviations of Equinox's
        initialisation, and of those that parameters outside of Equinox's layers are
        measured to have.
    - `parameterization`: of all layers. `"standard"`, or `nn.Standard()`, for gradients
        in the parameters of the model; with `"ntk"`, or `nn.NTK()`, of parameters with
        variance one, kernels depend on no width, other than through `bias_std`. With
        `nn.MuP()` lift the last layer apart, by `nn.MuP(readout=True)`.

    **Returns:** a network with parameters; `init` draws others, normally distributed.
    With an example, a `Wiring`, which prints what was read from which line. Without
    one, inputs and outputs that are `"scalar"` have one channel, and an
    `AdaptiveAvgPool` leaves no axes of size one. The parameters of activation
    functions, such as the slope of a `PReLU`, and single numbers that others are
    multiplied by, count as fixed.

    **Raises:** `nn.LayerError` for what has no counterpart, with its line or its place
    in the model, and what to do; `ValueError` for a standard deviation of zero that the
    parameters are multiplied by, which none can be scaled to, and for a
    parameterisation that makes layers wider than they are asked to be.
    """
    _check_read("from_equinox", "model", model)
    check("from_equinox", "parameterization", parameterization, IS_PARAMETERIZATION)
    given = as_parameterization(model, parameterization, (1, 1))
    own_std = UNIFORM_STD if weight_std is None else weight_std
    _check_keeps_models("from_equinox", given, own_std, bias_std)
    if example is None:
        embedding_std = 1.0 if weight_std is None else weight_std
        return lift(model, Scales(own_std, bias_std, given, embedding_std))
    return from_model(model, example, weight_std, bias_std, given)


_IS_STD = cast(Rule, rule_of(NonNegative | None))


def _check_read(owner: str, name: str, model: Any) -> None:
    """Raise unless this is a model, or a function, and no class of models."""
    if isinstance(model, type) or not callable(model):
        raise TypeError(
            f"{owner}: `{name}` is {described(model)}, but must be a model that can be "
            "called with an example of its input: an instance of an `eqx.Module`, or a "
            "function."
        )


def _check_keeps_models(
    owner: str,
    given: AbstractParameterization,
    weight_std: Scalar,
    bias_std: Scalar | None,
) -> None:
    """Raise unless the parameters of a model can be those of its network."""
    for name, value in (("weight_std", weight_std), ("bias_std", bias_std)):
        check(owner, name, value, _IS_STD)
    if given.channels(1) != 1:
        raise ValueError(
            f"{owner}: layers of a model are as wide as they are, but "
            f"`{given}` makes them wider than they are asked to be. Use "
            "`nn.Standard()`."
        )
    fans = Fans(1, 1, 1)
    scales = {"weight_std": given.weights(weight_std, fans)}
    if bias_std is not None:
        scales["bias_std"] = given.biases(bias_std, fans)
    for name, scale in scales.items():
        if known_value(scale.multiplier) == 0:
            raise ValueError(
                f"{owner}: `{name}` is 0, and the parameters of the model "
                "cannot be carried over to ones that are multiplied by 0. Use "
                '`parameterization="standard"`.'
            )


@names_checked(FINITE_HABITS)
def from_function(
    function: Callable[..., Any],
    params: Params,
    example: Any,
    *,
    weight_std: Scalar | None = None,
    bias_std: Scalar | None = None,
    parameterization: Parameterization = "standard",
) -> nn.AbstractLayer:
    r"""The network of layers that a function of parameters and one example is.

    So models of other libraries have kernels, too, and functions written by hand.

    **Arguments:**

    - `function`: `function(params, example)`, or with several examples one after the
        other; it is traced by JAX.
    - `params`: a tree of arrays. All inexact ones are parameters.
    - `example`: an input, or its shape and dtype as a `jax.ShapeDtypeStruct`; a tuple
        for a function of several inputs.
    - `weight_std`, `bias_std`: $\sigma_w$ and $\sigma_b$ of all layers. By default they
        are measured: the root of the mean square of the entries, that of weights times
        the root of the number of inputs to each output. Few entries tell it to few
        digits, and trained ones something else.
    - `parameterization`: as for `from_equinox`.

    **Returns:** a network with these parameters, which is the same function, as by
    `from_equinox` with an example.

    **Raises:** `nn.LayerError` for what no layer is known for, with the line of the
    function, and what to do; `ValueError` as `from_equinox` does.
    """
    _check_read("from_function", "function", function)
    check("from_function", "parameterization", parameterization, IS_PARAMETERIZATION)
    given = as_parameterization(function, parameterization, (1, 1))
    std = UNIFORM_STD if weight_std is None else weight_std
    _check_keeps_models("from_function", given, std, bias_std)
    leaves, places, arrays, rest = leaves_of(params)

    def called(arrays: PyTree, key: Array, *examples: Array) -> Any:
        whole = eqx.combine(arrays, rest)
        return function(whole, *examples)

    parameters = Parameters(leaves, weight_std, bias_std, given)
    return network_of_program(function, called, parameters, arrays, places, example)


def from_model(
    model: Callable[..., Any],
    example: PyTree,
    weight_std: Scalar | None,
    bias_std: Scalar | None,
    parameterization: AbstractParameterization,
) -> nn.AbstractLayer:
    """The network that a module with a `__call__` of its own is."""
    leaves, places, arrays, rest = leaves_of(with_marked_dropout(model))
    takes_key = _takes_key(model)

    def called(arrays: PyTree, key: Array, *examples: Array) -> Any:
        whole = eqx.combine(arrays, rest)
        if takes_key:
            try:
                return whole(*examples, key=key)
            except Exception:  # whatever models raise
                if inspect.unwrap(model) is model:
                    raise  # else it may map another over a batch, whose key it is
        return whole(*examples)

    parameters = Parameters(leaves, weight_std, bias_std, parameterization)
    return network_of_program(model, called, parameters, arrays, places, example)


def _takes_key(model: Callable[..., Any]) -> bool:
    try:
        return "key" in inspect.signature(model).parameters
    except (TypeError, ValueError):
        return False
