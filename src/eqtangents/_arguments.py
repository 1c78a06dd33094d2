"""What is said of arguments that do not fit: what came, what was needed, what to write.

Constructors are checked by their annotations, before they run.
"""

import collections.abc
import difflib
import functools
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

from eqtangents._types import Rule, is_concrete, is_integer


def described(value: Any) -> str:
    """What something is, in the words of users."""
    if value is None or isinstance(value, str | bool | numbers.Number):
        return f"`{value}`" if value is None else repr(value)
    if isinstance(value, type):
        return f"the class `{value.__name__}`"
    if isinstance(value, Sequence):
        return _described_sequence(value)
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"a placeholder of shape {value.shape}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
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


def is_key(value: Any) -> bool:
    """Whether this is a random key, or looks like one of the old style."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", ())
    if dtype is None:
        return False
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return True
    return dtype == np.uint32 and shape in ((2,), (4,))


def check(owner: str, name: str, value: Any, rule: Rule) -> None:
    """Raise unless an argument keeps a rule.

    **Raises:** `TypeError` for another kind of object, `ValueError` for a value.
    """
    if not rule.of_kind(value):
        raise TypeError(
            f"{owner}: `{name}` is {described(value)}, but must {rule.kind}."
            f"{_hint(name, value)}"
        )
    if not rule.of_value(value):
        raise ValueError(
            f"{owner}: `{name}` is {described(value)}, but must {rule.value}."
        )


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
        return _choice(members)
    if annotation is Callable or origin is collections.abc.Callable:
        return _FUNCTION
    if annotation in _BASIC:
        return _BASIC[annotation]
    if isinstance(annotation, type) and issubclass(annotation, eqx.Module):
        # Abstract ones, layers that is, are refused by the containers of layers.
        return None if inspect.isabstract(annotation) else _instance(annotation)
    return None


def _either(rules: Sequence[Rule]) -> Rule:
    """That one of some rules holds."""

    def of_value(value: Any) -> bool:
        return any(r.of_value(value) for r in rules if r.of_kind(value))

    return Rule(
        _joined([rule.kind for rule in rules]),
        lambda value: any(rule.of_kind(value) for rule in rules),
        _joined([rule.value for rule in rules if rule.value]),
        of_value,
    )


def _joined(words: Sequence[str]) -> str:
    first, *rest = words or [""]
    return " or ".join([first, *(word.removeprefix("be ") for word in rest)])


def _choice(choices: Sequence[str]) -> Rule:
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


_FUNCTION = Rule(
    "be a function of arrays, as `jax.numpy.tanh`",
    lambda value: callable(value) and not isinstance(value, type),
)
_NUMBER = Rule(
    "be a number",
    lambda value: isinstance(value, numbers.Real) and not isinstance(value, bool),
)
_BASIC: dict[Any, Rule] = {
    type(None): Rule("be `None`", lambda value: value is None),
    bool: Rule(
        "be `True` or `False`", lambda value: isinstance(value, bool | np.bool_)
    ),
    int: Rule("be an integer", is_integer),
    float: _NUMBER,
    str: Rule("be a string", lambda value: isinstance(value, str)),
}


class Habits(typing.NamedTuple):
    """What other libraries call arguments."""

    renamed: Mapping[str, Sequence[str]]  # to the first of these that there is
    said: Mapping[str, str]
    positional: Callable[[str, Sequence[str], tuple], str | None]


def check_call(
    owner: str,
    signature: inspect.Signature,
    rules: Mapping[str, Rule],
    args: tuple,
    kwargs: Mapping[str, Any],
    habits: Habits,
) -> None:
    """Raise unless a call fits a signature, and each argument the rule of its name."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        said = _misfit(owner, signature, args, kwargs, habits)
        raise TypeError(said or f"{owner}: {error}.") from None
    for name, value in bound.arguments.items():
        if name in rules:
            check(owner, name, value, rules[name])


def _misfit(
    owner: str,
    signature: inspect.Signature,
    args: tuple,
    kwargs: Mapping[str, Any],
    habits: Habits,
) -> str | None:
    """What to write instead of arguments that there are not."""
    parameters = signature.parameters.values()
    names = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    listed = ", ".join(f"`{name}`" for name in names)
    for name in kwargs:
        if name not in names:
            there = (
                f"Its arguments are {listed}." if names else "It takes no arguments."
            )
            return f"{owner}: takes no `{name}`. {_renamed(name, names, habits)}{there}"
    places = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if len(args) <= len(places):
        return None
    if said := habits.positional(owner, names, args):
        return f"{owner}: {said}"
    if not names:
        return f"{owner}: takes no arguments, but was given {described(args[0])}."
    taken = ", ".join(f"`{name}`" for name in places)
    further = [f"`{name}=`" for name in names if name not in places]
    by_name = f" Give others by name: {', '.join(further)}." if further else ""
    return (
        f"{owner}: takes {taken or 'none'} by position, but {len(args)} came, the last "
        f"{described(args[-1])}.{by_name}"
    )


def _renamed(name: str, names: Sequence[str], habits: Habits) -> str:
    for new in habits.renamed.get(name.lower(), ()):
        if new in names:
            return f"`{name}` is `{new}` here. "
    if said := habits.said.get(name.lower()):
        return f"{said} "
    close = difflib.get_close_matches(name, names, 1)
    return f"Did you mean `{close[0]}`? " if close else ""


@functools.cache
def _constructor(cls: type) -> tuple[inspect.Signature, dict[str, Rule]]:
    signature = inspect.signature(cls.__init__)
    _, *parameters = signature.parameters.values()
    rules = {p.name: rule_of(p.annotation) for p in parameters if _is_one(p)}
    found = {name: rule for name, rule in rules.items() if rule is not None}
    return signature.replace(parameters=parameters), found


def _is_one(parameter: inspect.Parameter) -> bool:
    return parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def check_constructor(
    cls: type, args: tuple, kwargs: Mapping[str, Any], habits: Habits
) -> None:
    """Raise unless a class can be made of some arguments, by its annotations."""
    signature, rules = _constructor(cls)
    check_call(cls.__name__, signature, rules, args, kwargs, habits)


_Function = TypeVar("_Function", bound=Callable)


def names_checked(habits: Habits) -> Callable[[_Function], _Function]:
    """Have a function say what to write instead of arguments that it does not have."""

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        names, name = signature.parameters.keys(), function.__name__

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(args) > len(names) or not kwargs.keys() <= names:
                check_call(name, signature, {}, args, kwargs, habits)
            return function(*args, **kwargs)

        return cast(_Function, call)

    return decorate
