"""What a value consists of, fact by fact: two values are the same if all facts are.

A manifest keeps the facts of a network and of its inputs, so that another one is found,
and the places where it differs are named.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import inspect
import operator
import pathlib
import sys
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from importlib import metadata
from typing import Any, TypeAlias

import jax
import jax.random as jr
import numpy as np
from jaxtyping import Array, Shaped

from eqtangents._arguments import described, is_typed_key


# A place within a value, `net.layers[0].weight_std` say, and what is there.
Fact: TypeAlias = tuple[str, str]

# Arrays up to this size are told by their values, so that messages show them.
_SHOWN = 8
_PACKAGES = "eqtangents", "jax", "jaxlib"
_SIMPLE = (
    *(type(None), bool, int, float, complex, str, bytes),
    *(type(...), slice, range, inspect.Signature, jax.tree_util.PyTreeDef),
)


def facts(place: str, value: Any) -> dict[str, str]:
    """All facts about a value.

    - Modules and other dataclasses: their class, by its name, and each field, static
      ones included.
    - Arrays: dtype, shape, and values or their hash.
    - Functions of libraries: their name. Others: the code, the defaults, and whatever
      they take from around them.

    **Raises:** `TypeError` for an object of which nothing is known, naming its place.
    """
    return dict(_facts(place, value, frozenset()))


def versions() -> dict[str, str]:
    """Those of the packages that compute kernels."""
    return {package: metadata.version(package) for package in _PACKAGES}


def _facts(place: str, value: Any, within: frozenset[int]) -> Iterator[Fact]:
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        yield place, _array(value)
    elif isinstance(value, enum.Enum):
        yield place, f"{_named(type(value))}.{value.name}"
    elif isinstance(value, type):
        yield place, f"the class {_named(value)}"
    elif isinstance(value, _SIMPLE):
        yield place, repr(value)
    elif isinstance(value, np.dtype | np.ufunc | types.ModuleType):
        yield place, f"{type(value).__name__} {getattr(value, '__name__', value)}"
    elif id(value) in within:
        yield place, "what it is in itself"
    else:
        what, parts = _parts(place, value)
        yield place, what
        for name, part in parts:
            yield from _facts(name, part, within | {id(value)})


def _parts(place: str, value: Any) -> tuple[str, list[tuple[str, Any]]]:
    """What something is, and the places and values that it consists of."""
    what = f"{_named(type(value))}"
    if isinstance(value, Mapping):
        items = sorted(value.items(), key=lambda item: repr(item[0]))
        return what, [(f"{place}[{key!r}]", part) for key, part in items]
    if isinstance(value, Sequence | Set):
        ordered = value if isinstance(value, Sequence) else sorted(value, key=repr)
        more = [(f"{place}[{i}]", part) for i, part in enumerate(ordered)]
        return f"{what} of {len(value)}", more
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return what, [(f"{place}.{n}", getattr(value, n, None)) for n in names]
    if isinstance(value, functools.partial):
        names = ["func", "args", "keywords"]
    elif isinstance(value, types.MethodType):
        names = ["__self__", "__func__"]
    elif _is_of_library(value):
        return f"the function {_named(value)}", []
    elif isinstance(value, types.FunctionType):
        return _parts_of_function(place, value)
    elif type(value) is object:  # a mark: there is nothing to it
        return what, []
    else:  # functions that JAX has wrapped, and their rules of differentiation
        names = ["__wrapped__", "jvp", "fwd", "bwd"]
    found = [(n, getattr(value, n, None)) for n in names]
    found = [(name, part) for name, part in found if part is not None]
    if not (callable(value) and found):
        raise TypeError(
            f"`{place}` is {described(value)}, of which it is not known when it is the "
            "same in another run, so that it cannot be part of what a store is "
            "resumed with. Make it a dataclass or an Equinox module, whose fields are "
            "compared, or a function."
        )
    return what, [(f"{place}.{name}", part) for name, part in found]


def _parts_of_function(
    place: str, function: types.FunctionType
) -> tuple[str, list[tuple[str, Any]]]:
    """Code, and what it depends on; where the function is defined plays no role."""
    code = function.__code__
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    outer = {name: _held(cell) for name, cell in cells}
    if not _is_installed(str(function.__module__).partition(".")[0]):
        names = sorted(set(_global_names(code)) & function.__globals__.keys())
        outer |= {name: function.__globals__[name] for name in names}
    parts = [(f"{place}:{name}", value) for name, value in outer.items()]
    defaults = (function.__defaults__, function.__kwdefaults__)
    if any(defaults):
        parts.append((f"{place}.__defaults__", defaults))
    return f"a function of code {_code(code)}", parts


def _held(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that has no value yet
        return ...


def _global_names(code: types.CodeType) -> Iterator[str]:
    """Names that a function takes from its module."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _code(code: types.CodeType) -> str:
    """A hash of what code does, without names of files and numbers of lines."""

    def told(constant: Any) -> str:
        if isinstance(constant, types.CodeType):
            return _code(constant)
        if isinstance(constant, frozenset):
            return repr(sorted(map(repr, constant)))
        return repr(constant)

    whole = code.co_code, code.co_names, [*map(told, code.co_consts)]
    return hashlib.sha256(repr(whole).encode()).hexdigest()[:16]


def _array(x: Shaped[Array | np.ndarray | np.generic, "..."]) -> str:
    if isinstance(x, jax.Array) and is_typed_key(x):
        return f"{jr.key_impl(x)} {_array(jr.key_data(x))}"
    values = np.asarray(x)
    if values.dtype == object:
        raise TypeError("An array of Python objects cannot be part of a store.")
    what = f"{values.dtype}{list(values.shape)}"
    if values.size <= _SHOWN:
        return f"{what} {values.tolist()}"
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return f"{what} {hashlib.sha256(flat.data).hexdigest()[:32]}"


def _named(value: Any) -> str:
    return f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', '')}"


def _is_of_library(value: Any) -> bool:
    """Whether this is found by its name in an installed package, or in Python."""
    module, name = (getattr(value, n, None) for n in ("__module__", "__qualname__"))
    if not (callable(value) and isinstance(module, str) and isinstance(name, str)):
        return False
    try:
        found = operator.attrgetter(name)(sys.modules[module])
    except (AttributeError, KeyError):
        return False
    return found is value and _is_installed(module.partition(".")[0])


@functools.cache
def _is_installed(package: str) -> bool:
    if package in (*sys.stdlib_module_names, __name__.partition(".")[0]):
        return True
    file = getattr(sys.modules.get(package), "__file__", None) or ""
    # Of this environment, or of one that it extends.
    return not {"site-packages", "dist-packages"}.isdisjoint(pathlib.Path(file).parts)
