"""Calls that do not fit a signature: what to write instead.

Constructors are checked by their annotations, before they run.
"""

import difflib
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from eqtangents._arguments import check, described, rule_of
from eqtangents._types import Rule


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
        missing = f"{owner}: {error}. {_arguments_told(signature)}"
        raise TypeError(said or missing) from None
    for name, value in bound.arguments.items():
        if name in rules:
            hint = _exchange_hint(name, bound.arguments, rules)
            check(owner, name, value, rules[name], hint)


def _exchange_hint(
    name: str, given: Mapping[str, Any], rules: Mapping[str, Rule]
) -> str:
    """What to say if this argument and another would fit in each other's place."""
    value, fits = given[name], rules[name].of_kind
    if fits(value):
        return ""
    for other, theirs in given.items():
        if fits(theirs) and (other not in rules or rules[other].of_kind(value)):
            return f"It and `{other}` seem to be swapped."
    return ""


def _misfit(
    owner: str,
    signature: inspect.Signature,
    args: tuple,
    kwargs: Mapping[str, Any],
    habits: Habits,
) -> str | None:
    """What to write instead of arguments that there are not."""
    parameters = signature.parameters.values()
    names = _names_of(signature)
    for name in kwargs:
        if name not in names:
            here = _called_here(name, names, habits)
            return f"{owner}: takes no `{name}`. {here}{_arguments_told(signature)}"
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


def _names_of(signature: inspect.Signature) -> list[str]:
    parameters = signature.parameters.values()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


def _arguments_told(signature: inspect.Signature) -> str:
    """What the arguments are, in words."""
    names = _names_of(signature)
    if not names:
        return "It takes no arguments."
    return f"Its arguments are {', '.join(f'`{name}`' for name in names)}."


def _called_here(name: str, names: Sequence[str], habits: Habits) -> str:
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
        parameters = signature.parameters
        by_name = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
        places, name = len(parameters) - len(by_name), function.__name__
        made = int(name == "__init__")  # the first argument is what is being made
        name = function.__qualname__.split(".")[-1 - made]
        given = signature.replace(parameters=[*parameters.values()][made:])
        needed = [p.name for p in parameters.values() if p.default is p.empty]

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            missing = any(one not in kwargs for one in needed[len(args) :])
            unknown = not kwargs.keys() <= parameters.keys()
            if len(args) > places or missing or unknown:
                check_call(name, given, {}, args[made:], kwargs, habits)
            return function(*args, **kwargs)

        return cast(_Function, call)

    return decorate
