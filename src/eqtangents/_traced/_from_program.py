"""The network that a function of parameters and examples is, read from its program."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import PyTree

from eqtangents import nn
from eqtangents._arguments import described
from eqtangents._jaxpr import jaxpr_and_consts
from eqtangents._traced._builder import Builder
from eqtangents._traced._catalogue import layers_by_fingerprint
from eqtangents._traced._expressions import Hole
from eqtangents._traced._network import output_node, wired
from eqtangents._traced._parameters import Parameters
from eqtangents._traced._values import InputFunction, Unreadable, refusal, with_line
from eqtangents._traced._walk import Walk


_FINITE_KERNELS = (
    "Kernels of the model as it is, of finite width: `eqtangents.empirical_ntk`."
)
_CLOSES_OVER = (
    "computes with arrays that are none of its parameters: what a function closes over "
    "is constant, and nothing is left that is drawn. Give the module itself and one "
    "example, not a batch, or "
    "`eqx.Partial(function, module)` for a function that takes the module first, or "
    "`eqtangents.from_function(function, params, example)`."
)


def network_of_program(
    model: Any,
    called: Callable[..., Any],
    parameters: Parameters,
    arrays: PyTree,
    places: list[int],
    example: PyTree,
) -> nn.AbstractLayer:
    """The network that `called(arrays, key, *examples)` is.

    `places`: which of the parameters each of the arrays is.
    """
    examples = example if isinstance(example, tuple | list) else (example,)
    shapes = [_example_struct(one) for one in examples]
    key = jax.eval_shape(lambda: jax.random.key(0))
    try:
        program = jax.make_jaxpr(called)(arrays, key, *shapes)
    except nn.LayerError:
        raise
    except Exception as error:
        raise _not_callable(model, called, arrays, key, shapes, error) from error
    holes = [Hole(tuple(shape.shape), _if_integers(shape.dtype)) for shape in shapes]
    builder = Builder(holes, parameters, layers_by_fingerprint())
    args = [
        *(parameters.whole(place) for place in places),
        InputFunction(Hole(())),
        *map(InputFunction, holes),
    ]
    results = Walk(builder, model).run(*jaxpr_and_consts(program), args)
    try:
        nodes = [output_node(builder, result) for result in results]
    except Unreadable as error:
        raise refusal(model, str(error), builder.line) from None
    except nn.LayerError as error:
        raise with_line(error, builder.line) from None
    if not any(node.holds for node in builder.nodes) and _has_arrays(program):
        raise refusal(model, _CLOSES_OVER, builder.line)
    return wired(builder, nodes, model)


def _has_arrays(program: Any) -> bool:
    """Whether a program has arrays of real numbers that it closes over."""
    jaxpr, consts = jaxpr_and_consts(program)
    if any(eqx.is_inexact_array_like(one) and jnp.ndim(one) for one in consts):
        return True
    values = [value for eqn in jaxpr.eqns for value in eqn.params.values()]
    programs = [v for v in values if isinstance(v, core.Jaxpr | core.ClosedJaxpr)]
    return any(map(_has_arrays, programs))


def _not_callable(
    model: Any,
    called: Callable[..., Any],
    arrays: PyTree,
    key: jax.ShapeDtypeStruct,
    shapes: list[jax.ShapeDtypeStruct],
    error: Exception,
) -> Exception:
    """What to say if a model raised this when it was called with the examples."""
    came = ", ".join(f"shape {shape.shape} and dtype {shape.dtype}" for shape in shapes)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    whole = (
        f"The model raised {type(error).__name__} when it was called with `example`, "
        f"of {came}: {first.rstrip('.')}."
    )
    # A `Sequential` counts as one, but keeps nothing itself.
    is_stateful = lambda one: (
        isinstance(one, eqx.nn.StatefulLayer) and not isinstance(one, eqx.nn.Sequential)
    )
    leaves = jax.tree.leaves(model, is_leaf=is_stateful)
    if stateful := next(filter(is_stateful, leaves), None):
        whole += (
            f" Its `{type(stateful).__name__}` keeps statistics of other examples, "
            "which have no kernel: use `LayerNorm` or `GroupNorm`."
        )
    if all(shape.ndim > 1 for shape in shapes):
        ones = (jax.ShapeDtypeStruct(s.shape[1:], s.dtype) for s in shapes)
        try:
            jax.eval_shape(called, arrays, key, *ones)
        except Exception:  # whatever models raise
            pass
        else:
            whole += " With `example[0]` it can be: give one example, not a batch."
    return ValueError(f"{whole} {_FINITE_KERNELS}")


def _if_integers(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.integer) else None


def _example_struct(example: Any) -> jax.ShapeDtypeStruct:
    if isinstance(example, jax.ShapeDtypeStruct):
        return example
    if not eqx.is_array_like(example):
        raise TypeError(
            f"`example` is {described(example)}, but networks take an array, or a "
            "tuple of arrays. For a model that takes something else, name its parts: "
            '`eqx.Partial(lambda model, a, b: model({"a": a, "b": b}), model)`.'
        )
    array = jnp.asarray(example)
    if not array.ndim:
        raise ValueError(
            "`example` is a number, but kernels are of arrays with channels. Write the "
            "model for an array of one entry; of a shape, make an input, by "
            "`jax.ShapeDtypeStruct(shape, jnp.float32)`."
        )
    return jax.ShapeDtypeStruct(array.shape, array.dtype)
