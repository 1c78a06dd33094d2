"""Parts of a program that are kept until it is known which layer they are."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from eqtangents._jaxpr import bind, shape_of
from eqtangents._traced._numpy import in_numpy


@dataclasses.dataclass(frozen=True, eq=False)
class Hole:
    """What an expression is a function of.

    `dtype`: the type that a program reads it in, if it is integers.
    """

    shape: tuple[int, ...]
    dtype: np.dtype | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class AppliedEquation:
    """One result of an equation, applied to expressions and constants."""

    eqn: core.JaxprEqn
    number: int
    args: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return shape_of(self.eqn.outvars[self.number])


@dataclasses.dataclass(frozen=True, eq=False)
class AppliedFunction:
    """The result of a function of JAX, applied to expressions and constants."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    shape: tuple[int, ...]
    name: Any


Expression = Hole | AppliedEquation | AppliedFunction


def value_of_expression(
    expression: Any,
    holes: Mapping[Hole, Any],
    apply: Callable[..., Sequence[Any]] = lambda eqn, args: bind(eqn, *args),
) -> Any:
    """The value of an expression, given what it is a function of.

    `apply` evaluates an equation.
    """
    known: dict[Any, Any] = dict(holes)

    def value(node: Any) -> Any:
        if not isinstance(node, Expression):
            return node
        if node in known:
            return known[node]
        assert not isinstance(node, Hole), "every hole is filled"
        args = [value(arg) for arg in node.args]
        if isinstance(node, AppliedFunction):
            known[node] = node.function(*args)
            return known[node]
        number = (id(node.eqn), tuple(map(id, node.args)))
        if number not in known:
            known[number] = apply(node.eqn, args)
        known[node] = known[number][node.number]
        return known[node]

    return value(expression)


def reads(expression: Any) -> set[Hole]:
    """What an expression is a function of."""
    found: set[Hole] = set()
    seen: set[Any] = set()
    left = [expression]
    while left:
        node = left.pop()
        if not isinstance(node, Expression) or node in seen:
            continue
        seen.add(node)
        if isinstance(node, Hole):
            found.add(node)
        else:
            left.extend(node.args)
    return found


def fingerprint(
    expression: Any,
    name: Callable[[Hole], Any] = lambda _: None,
    *,
    exact: bool = False,
) -> Any:
    """Equal for expressions that are the same function, whatever shapes they are for.

    `name` tells holes apart, if there are several. If `exact`, shapes count.
    """
    known: dict[Any, Any] = {}
    numbers: dict[Any, int] = {}

    def mark(node: Any) -> Any:
        if not isinstance(node, Expression):
            return uniform(node)
        if isinstance(node, Hole):
            return ("hole", name(node))
        if node not in known:
            # Of several uses of one value, the later ones are a number.
            parts = tuple(mark(arg) for arg in node.args)
            if isinstance(node, AppliedFunction):
                about = node.name
            elif exact:
                about = (node.eqn.primitive.name, node.number, str(node.eqn.params))
            else:
                about = _about(node)
            text = (about, parts)
            known[node] = numbers.setdefault(text, len(numbers))
        return known[node]

    last = mark(expression)
    return last, tuple(numbers)


def _about(node: AppliedEquation) -> tuple:
    params = [
        (name, _without_shapes(str(value)))
        for name, value in sorted(node.eqn.params.items())
        if name not in _OF_SHAPES
    ]
    return node.eqn.primitive.name, node.number, (*params, *_derivative_of(node.eqn))


def _derivative_of(eqn: Any) -> tuple:
    """The program of the derivative, of a call whose program does not tell it."""
    custom = eqn.primitive.name == "custom_jvp_call"
    if not custom and "custom_jvp_call" not in str(eqn.params):
        return ()
    types = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]

    def derivative(*args: Array) -> Any:
        return jax.jvp(
            lambda *args: bind(eqn, *args), args, (*map(_any_direction, args),)
        )

    program = jax.make_jaxpr(derivative)(*types)
    return _without_shapes(str(program)), *map(uniform, program.consts)


def _any_direction(x: Array) -> Any:
    """Any direction in which an array can change, none for integers."""
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return np.zeros(x.shape, jax.dtypes.float0)


_OF_SHAPES = {"shape", "sharding", "out_sharding", "jvp", "jvp_jaxpr_fun"}
_OF_SHAPES |= {"broadcast_dimensions", "weak_type"}


def _without_shapes(text: str) -> str:
    """The text of a program, as it is for any shape."""
    text = re.sub(r"\b([a-z]+\d+|bool)\[[\d,]*\]", r"\1[]", text)
    text = re.sub(r"shape=\([\d, ]*\)", "shape=", text)
    text = re.sub(r"0x[0-9a-f]+", "", text)
    return re.sub(r"\s+", " ", text)  # lines break where shapes make them too long


def uniform(value: Any) -> Any:
    """The number that all entries of an array are; else what tells the array apart."""
    try:
        array = np.asarray(value)
    except Exception:  # an array that is being traced, or random keys
        return ("array", id(value))
    if array.size and (array == array.flat[0]).all():
        return ("number", str(array.dtype), array.flat[0].item())
    return ("array", array.shape, hash(array.tobytes()))


_AXIS_MOVES = {"transpose", "reshape", "squeeze", "expand_dims", "broadcast_in_dim"}


def shows(expression: Any, hole: Hole, order: Sequence[int]) -> bool:
    """Whether an array, with its axes in some order, has the entries of the hole."""
    node = expression
    while isinstance(node, AppliedEquation) and node.eqn.primitive.name in _AXIS_MOVES:
        node = node.args[0]
    if node is not hole:
        return False
    numbers = np.arange(int(np.prod(hole.shape))).reshape(hole.shape)
    moved = lambda eqn, args: in_numpy(eqn, args) or []
    found = value_of_expression(expression, {hole: numbers}, moved)
    left_out = [axis for axis in range(found.ndim) if axis not in order]
    if found.size != numbers.size:
        return False
    return bool((found.transpose(*order, *left_out).ravel() == numbers.ravel()).all())


def multiple(hole: Hole, factor: float) -> AppliedFunction:
    """A number times what an expression is a function of."""
    times = lambda x: x * factor
    return AppliedFunction(times, (hole,), hole.shape, ("times", factor))


def of_multiple(expression: Any) -> tuple[float, Expression] | None:
    """An expression that reads a multiple alone, as a function of that.

    **Returns:** the factor and the function, or `None`.
    """
    factors: set[float | None] = set()
    made: dict[Any, Any] = {}

    def changed(node: Any) -> Any:
        if isinstance(node, Hole):
            factors.add(None)
        if not isinstance(node, Expression) or isinstance(node, Hole):
            return node
        if node not in made:
            if isinstance(node, AppliedFunction) and node.name[0] == "times":
                factors.add(node.name[1])
                made[node] = node.args[0]
            else:
                args = tuple(map(changed, node.args))
                made[node] = dataclasses.replace(node, args=args)
        return made[node]

    function = changed(expression)
    if len(factors) != 1 or None in factors or isinstance(function, Hole):
        return None
    (factor,) = factors
    assert factor is not None
    return factor, function


def results_of(eqn: core.JaxprEqn, args: Sequence[Any]) -> list[AppliedEquation]:
    """All results of an equation."""
    return [AppliedEquation(eqn, i, tuple(args)) for i in range(len(eqn.outvars))]
