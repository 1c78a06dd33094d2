"""Type aliases of public annotations, with what their values may be."""

import dataclasses
import math
import numbers
import operator
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True, repr=False)
class Rule:
    """What an argument must be: first its kind, then its value.

    Written beside a type, `Annotated[int, Rule(...)]`, it holds for every argument that
    is annotated by it; `eqtangents._arguments` says what is wrong with others.
    """

    kind: str
    of_kind: Callable[[Any], bool]
    value: str = ""
    of_value: Callable[[Any], bool] = lambda _: True

    def __repr__(self) -> str:
        """Short, for it stands in signatures."""
        return f"Rule({self.value or self.kind!r})"


def is_concrete(x: Any) -> bool:
    """Whether the values of an array are known, and lie on this very machine."""
    if not isinstance(x, jax.Array):
        return isinstance(x, np.ndarray)
    try:
        return x.is_fully_addressable
    except jax.errors.ConcretizationTypeError:
        return False


def is_traced(x: Any) -> bool:
    """Whether the values of an array are not known yet, on any machine."""
    if not isinstance(x, jax.Array):
        return False
    try:
        return x.is_fully_addressable is None
    except jax.errors.ConcretizationTypeError:
        return True


def is_integer(x: Any) -> bool:
    """Whether this is an integer whose value is known; truth values are none."""
    try:
        operator.index(x)
    except (TypeError, jax.errors.JAXTypeError):
        return False
    return not isinstance(x, bool)


def is_real(x: Any) -> bool:
    """Whether this is a number, or an array of real numbers of any shape."""
    if isinstance(x, numbers.Real):
        return not isinstance(x, bool)
    dtype = getattr(x, "dtype", None)
    return isinstance(dtype, np.dtype) and (
        jax.numpy.issubdtype(dtype, np.floating)
        or jax.numpy.issubdtype(dtype, np.integer)
    )


def _is_integer_array(x: Any) -> bool:
    return isinstance(x, jax.Array) and jax.numpy.issubdtype(x.dtype, jax.numpy.integer)


def known_value(x: Any) -> float | None:
    """The value of a number, or `None` if it is not known yet."""
    if isinstance(x, numbers.Real):
        return float(x)
    return float(np.asarray(x)) if is_concrete(x) else None


def _single(fits: Callable[[float], bool]) -> Callable[[Any], bool]:
    """Whether something real is one number, whose value fits as far as it is known."""

    def of_value(x: Any) -> bool:
        if not isinstance(x, numbers.Real) and x.shape:
            return False
        value = known_value(x)
        return value is None or fits(value)

    return of_value


def _scalar(value: str, fits: Callable[[float], bool]) -> Rule:
    return Rule("be a number", is_real, value, _single(fits))


def _python_number(value: str, fits: Callable[[float], bool]) -> Rule:
    is_number = lambda x: isinstance(x, numbers.Real) and not isinstance(x, bool)
    return Rule("be a number of Python", is_number, value, fits)


def integer(least: int) -> Rule:
    """The rule of an integer that is at least so large."""
    value = f"be at least {least}" if least else "not be negative"
    return Rule("be an integer", is_integer, value, lambda x: x >= least)


def _integers(value: str, least: int) -> Rule:
    def of_kind(x: Any) -> bool:
        many = isinstance(x, Sequence) and not isinstance(x, str)
        return all(map(is_integer, x)) if many else is_integer(x)

    def of_value(x: Any) -> bool:
        return all(n >= least for n in (x if isinstance(x, Sequence) else (x,)))

    return Rule(value, of_kind, value, of_value)


def _several(value: str, least: int) -> Rule:
    """The rule of a tuple of integers, of any number of them."""
    rule = _integers(value, least)
    of_kind = lambda x: not is_integer(x) and rule.of_kind(x)
    return dataclasses.replace(rule, of_kind=of_kind)


def _is_padding(x: Any) -> bool:
    if isinstance(x, str):
        return x.upper() in ("VALID", "SAME", "CIRCULAR")
    if is_integer(x):
        return x >= 0
    return all(
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(is_integer(zeros) and zeros >= 0 for zeros in pair)
        for pair in x
    )


# A hyperparameter: a Python number is a compile-time constant; an array is a leaf that
# can be differentiated and changed without compiling again.
_ScalarValue: TypeAlias = float | int | Float[Array, ""]
Scalar: TypeAlias = Annotated[
    _ScalarValue, _scalar("be one finite number, of shape `()`", math.isfinite)
]
# One number, or an array of several that are treated alike.
ScalarOrBatch: TypeAlias = Scalar | Float[Array, "..."]
NonNegative: TypeAlias = Annotated[
    _ScalarValue,
    _scalar(
        "be one finite number, of shape `()`, that is not negative",
        lambda x: 0 <= x < math.inf,
    ),
]
Positive: TypeAlias = Annotated[
    float | int,
    _python_number("be a finite number above zero", lambda x: 0 < x < math.inf),
]
Probability: TypeAlias = Annotated[
    float | int,
    _python_number(
        "be the probability of dropping a value, at least 0 and below 1",
        lambda x: 0 <= x < 1,
    ),
]

# AxisSizes of networks, and numbers of copies.
Count: TypeAlias = Annotated[int, integer(1)]
CountOrZero: TypeAlias = Annotated[int, integer(0)]
Counts: TypeAlias = Annotated[
    int | tuple[int, ...],
    _integers("be a positive integer, or a tuple of them, one for each axis", 1),
]
# For each of any number of axes, none included.
AxisSizes: TypeAlias = Annotated[
    tuple[int, ...], _several("be a tuple of positive integers", 1)
]
Order: TypeAlias = Annotated[
    tuple[int, ...], _several("be a tuple of axes, counted from 0", 0)
]
ValuesRead: TypeAlias = Annotated[
    Sequence[Sequence[int]],
    Rule(
        "be a list of lists of integers",
        lambda x: (
            isinstance(x, Sequence)
            and all(
                isinstance(one, Sequence) and all(map(is_integer, one)) for one in x
            )
        ),
    ),
]
Lines: TypeAlias = Annotated[
    Sequence[str],
    Rule(
        "be a list of strings",
        lambda x: isinstance(x, Sequence) and all(isinstance(one, str) for one in x),
    ),
]
Widths: TypeAlias = Annotated[
    tuple[tuple[int, int, int], ...],
    Rule(
        "be three integers for each axis: zeros before, after and between",
        lambda x: isinstance(x, Sequence) and not isinstance(x, str),
        "be three integers for each axis: zeros before, after and between",
        lambda x: all(
            isinstance(one, Sequence) and len(one) == 3 and all(map(is_integer, one))
            for one in x
        ),
    ),
]
Axes: TypeAlias = Annotated[
    int | tuple[int, ...],
    _integers("be an axis, or a tuple of them, counted from 0", 0),
]
SpatialAxes: TypeAlias = Annotated[
    int | tuple[int, ...],
    _integers("be a spatial axis, or a tuple of them, counted from 1", 1),
]
Multipliers: TypeAlias = Annotated[
    tuple[int, int],
    Rule(
        "be two positive integers, for inputs and outputs",
        lambda x: isinstance(x, Sequence) and all(map(is_integer, x)),
        "be two positive integers, for inputs and outputs",
        lambda x: len(x) == 2 and min(x) >= 1,
    ),
]

# A number of layers that may be traced.
Depth: TypeAlias = Annotated[
    int | Int[Array, ""],
    Rule(
        "be an integer, or an array of one, of shape `()`",
        lambda x: is_integer(x) or _is_integer_array(x),
        "be one integer, an array of shape `()`; depths of many networks are mapped by "
        "`jax.vmap`",
        lambda x: is_integer(x) or x.shape == (),
    ),
]

# Outside of the input: nothing is read, zeros, or the input over again; or so many
# zeros on both sides, on all axes alike or before and after each.
_PADDINGS = (
    'be "VALID", "SAME" or "CIRCULAR", a number of zeros, or a pair of them for each '
    "axis, `((before, after), ...)`"
)
Padding: TypeAlias = Annotated[
    Literal["VALID", "SAME", "CIRCULAR"] | int | Sequence[tuple[int, int]],
    Rule(
        _PADDINGS,
        lambda x: isinstance(x, Sequence) or is_integer(x),
        _PADDINGS,
        _is_padding,
    ),
]
# The same, where numbers of zeros are no choice.
NamedPadding: TypeAlias = Literal["VALID", "SAME", "CIRCULAR"]


def lowered(choice: Any) -> Any:
    """A name as a layer keeps it."""
    return choice.lower()


def plain(option: Any) -> Any:
    """An option as a layer keeps it: hashable, numbers of Python, names in capitals."""
    if isinstance(option, str):
        return option.upper()
    if isinstance(option, Sequence):
        return tuple(map(plain, option))
    return int(option) if is_integer(option) else option
