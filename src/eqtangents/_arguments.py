"""Errors for arguments that do not fit: they say what came and what is needed."""

import collections.abc
import inspect
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from eqtangents._types import Rule, integer, is_concrete, is_integer, lowered


Name = TypeVar("Name")


def described(value: Any) -> str:
    """What something is, in the words of users."""
    if value is None or isinstance(value, str | bool | numbers.Number):
        return f"`{value}`" if value is None else repr(value)
    if isinstance(value, type):
        return f"the class `{value.__name__}`"
    if isinstance(value, Sequence):
        return _described_sequence(value)
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"a placeholder of shape {value.shape}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        if is_typed_key(value) and shape:
            return f"an array of random keys, of shape {shape}"
        if is_key(value):
            return "a random key"
        if shape == () and is_concrete(value):
            return f"an array of the value {np.asarray(value)}"
        return f"an array of shape {shape} and dtype {dtype}"
    if callable(value) and not isinstance(value, eqx.Module):
        function = getattr(value, "__name__", "<lambda>")
        return "a function" if "<" in function else f"the function `{function}`"
    name, package = type(value).__name__, type(value).__module__.split(".")[0]
    article = "an" if name[0] in "AEIOU" else "a"
    if name.startswith("_"):
        return f"an object of `{package}`"
    if isinstance(value, eqx.Module) and package != "eqtangents":
        return f"{article} `{name}`, an Equinox module"
    return f"{article} `{name}`"


def _described_sequence(value: Sequence) -> str:
    kind = type(value).__name__
    whole = repr(value)
    simple = all(isinstance(v, str | numbers.Number | None) for v in value)
    if kind in ("list", "tuple") and simple and len(whole) < 50:
        return whole
    kinds = list(dict.fromkeys(type(v).__name__ for v in value))
    named = [name for name in kinds if not name.startswith("_")][:3]
    of = f" (`{'`, `'.join(named)}`)" if named else ""
    return f"a {kind} of {len(value)}{of}"


def is_typed_key(value: Any) -> bool:
    """Whether these are random keys of the typed kind, of any shape."""
    array = isinstance(value, jax.Array)
    return array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def is_key(value: Any) -> bool:
    """Whether these are random keys, or this looks like one of the older kind."""
    if is_typed_key(value):
        return True
    array = isinstance(value, jax.Array | np.ndarray)
    return array and value.dtype == np.uint32 and value.shape in ((2,), (4,))


def check_key(name: str, key: Any) -> None:
    """Raise unless this is one random key.

    **Arguments:**

    - `name`: what it is called in the message, "`key`" say.
    - `key`: what came.

    **Raises:** `TypeError` if it is no key, `ValueError` if it is several.
    """
    if not is_key(key):
        seed = key if is_integer(key) else 0
        raise TypeError(
            f"{name} is {described(key)}, but must be a random key: "
            f"`key=jax.random.key({seed})`, say."
        )
    if is_typed_key(key) and key.shape:
        raise ValueError(
            f"{name} is {described(key)}, but must be one key: `key[0]`, say."
        )


def check(owner: str, name: str, value: Any, rule: Rule, hint: str = "") -> None:
    """Raise unless an argument keeps a rule.

    **Arguments:**

    - `owner`: whose argument it is; nothing for a function, which the traceback names.
    - `name`, `value`: of the argument.
    - `rule`: what it must be.
    - `hint`: what more there is to say.

    **Raises:** `TypeError` for another kind of object, `ValueError` for a value.
    """
    came = f"{owner and owner + ': '}`{name}` is {described(value)}, but must "
    more = f" {hint}" if hint else _hint(name, value)
    if not rule.of_kind(value):
        raise TypeError(f"{came}{rule.kind}.{more}")
    if not rule.of_value(value):
        raise ValueError(f"{came}{rule.value}.{more}")


def checked_integer(name: str, value: Any, least: int, hint: str = "") -> int:
    """An integer of Python, at least so large.

    **Raises:** `TypeError` if it is no integer, `ValueError` if it is too small.
    """
    check("", name, value, integer(least), hint)
    return int(value)


def checked_choice(name: str, value: Name, choices: Sequence[str]) -> Name:
    """One of some names, as it is written among them.

    **Raises:** `TypeError` if it is no string, `ValueError` if it is none of them.
    """
    check("", name, value, _one_of(choices))
    return cast(Name, lowered(value))


def _hint(name: str, value: Any) -> str:
    if isinstance(value, bool) and name == "bias_std":
        return " Give `bias_std=1.0` for a bias, say, and `bias_std=None` for none."
    if isinstance(value, type):
        return f" Give an instance, `{value.__name__}(...)`."
    return ""


def rule_of(annotation: Any) -> Rule | None:
    """The rule that an annotation stands for; `None` if it stands for anything."""
    for data in getattr(annotation, "__metadata__", ()):
        if isinstance(data, Rule):
            return data
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        rules = [rule_of(member) for member in members]
        known = [rule for rule in rules if rule is not None]
        return _either(known) if len(known) == len(rules) else None
    if origin is typing.Literal:
        return _one_of(members)
    if annotation is Callable or origin is collections.abc.Callable:
        return _ARRAY_FUNCTION
    if annotation in _BASIC:
        return _BASIC[annotation]
    if isinstance(annotation, type) and issubclass(annotation, eqx.Module):
        # Abstract ones, layers that is, are refused by the containers of layers.
        return None if inspect.isabstract(annotation) else _instance(annotation)
    return None


def _either(rules: Sequence[Rule]) -> Rule:
    """The rule that at least one of some rules holds."""

    def of_value(value: Any) -> bool:
        return any(r.of_value(value) for r in rules if r.of_kind(value))

    return Rule(
        _alternatives([rule.kind for rule in rules]),
        lambda value: any(rule.of_kind(value) for rule in rules),
        _alternatives([rule.value for rule in rules if rule.value]),
        of_value,
    )


def _alternatives(words: Sequence[str]) -> str:
    first, *rest = words or [""]
    return " or ".join([first, *(word.removeprefix("be ") for word in rest)])


def _one_of(choices: Sequence[str]) -> Rule:
    *first, last = (f'"{choice}"' for choice in choices)
    words = f"be {', '.join(first)} or {last}"
    return Rule(
        words,
        lambda value: isinstance(value, str),
        words,
        lambda value: value.lower() in map(str.lower, choices),
    )


def _instance(kind: type) -> Rule:
    return Rule(f"be a `{kind.__name__}(...)`", lambda value: isinstance(value, kind))


_ARRAY_FUNCTION = Rule(
    "be a function of arrays, as `jax.numpy.tanh`",
    lambda value: callable(value) and not isinstance(value, type),
)
_REAL = Rule(
    "be a number",
    lambda value: isinstance(value, numbers.Real) and not isinstance(value, bool),
)
_BASIC: dict[Any, Rule] = {
    type(None): Rule("be `None`", lambda value: value is None),
    bool: Rule(
        "be `True` or `False`", lambda value: isinstance(value, bool | np.bool_)
    ),
    int: Rule("be an integer", is_integer),
    float: _REAL,
    str: Rule("be a string", lambda value: isinstance(value, str)),
}
