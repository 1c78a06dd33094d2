"""Names that other libraries have, and older versions had, and what is here instead."""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from typing import Any, NamedTuple


_PACKAGE = __name__.partition(".")[0]
# How alike a name of a module is to one that was meant; one of another module.
_ALIKE, _ALIKE_ELSEWHERE = 0.6, 0.8


class Said(NamedTuple):
    """What there is to say of names that a module does not have."""

    renamed: Mapping[str, str]  # what names of other libraries are in it
    absent: Mapping[str, str]  # a sentence on names of which it has no such thing


_UNHEARD = Said({}, {})
# Of each module, once it is imported.
_SAID: dict[str, Said] = {}


def names_told(module: str, said: Said = _UNHEARD) -> Callable[[str], Any]:
    """The function that a module calls for a name that it does not have.

    **Arguments:**

    - `module`: its name.
    - `said`: what there is to say of names that others are used to.

    **Returns:** its `__getattr__`, which raises an error with what to write instead: a
    name of this module, or of another one of the package.
    """
    _SAID[module] = said

    def missing(name: str) -> Any:
        # Names with underscores are those that Python itself asks for.
        instead = "" if name.startswith("_") else _advice(module, name)
        raise AttributeError(f"`{module}` has no `{name}`.{instead}", name=name)

    return missing


def _advice(module: str, name: str) -> str:
    """A sentence on what to write in the place of a name."""
    parts = [other for other in _exports() if other not in (module, _PACKAGE)]
    places = {module: None, _PACKAGE: None, **dict.fromkeys(parts)}
    for place in places:
        if sentence := _SAID.get(place, _UNHEARD).absent.get(name):
            return f" {sentence}"
    if found := _places_of(name, module, parts):
        written = " or ".join(_to_write(*place, module) for place in found)
        return f" `{name}` is {written} here."
    if f"{_PACKAGE}.{name}" in _exports():
        return f" It has to be imported: `from {_PACKAGE} import {name}`."
    for place in places:
        own = _by_letters(_exports()[place])
        alike = _ALIKE if place == module else _ALIKE_ELSEWHERE
        for near in difflib.get_close_matches(_letters(name), own, 1, alike):
            return f" Did you mean {_to_write(place, own[near], module)}?"
    return ""


def _places_of(name: str, module: str, parts: list[str]) -> list[tuple[str, str]]:
    """Modules that have a name, and what it is called in each.

    In the one that was asked for it, it may be spelt in any way; in others so only if
    it is nowhere as it is spelt.
    """

    def first_of(spelt: Callable[[str, str], str | None]) -> list[tuple[str, str]]:
        for places in ([_PACKAGE], parts):
            found = [(place, new) for place in places if (new := spelt(name, place))]
            if found:
                return found
        return []

    own = _spelt_like(name, module)
    here = [] if own is None else [(module, own)]
    return here + first_of(_known_as) or first_of(_spelt_like)


def _known_as(name: str, module: str) -> str | None:
    return name if name in _exports()[module] else None


def _spelt_like(name: str, module: str) -> str | None:
    new = _SAID.get(module, _UNHEARD).renamed.get(name)
    return new or _by_letters(_exports()[module]).get(_letters(name))


def _to_write(module: str, name: str, asked: str) -> str:
    """How to write a name of a module, for users who asked this or another for it."""
    part = module.removeprefix(_PACKAGE).removeprefix(".")
    if module == asked and part:
        return f"`{part}.{name}`"
    if part and part not in _exports()[_PACKAGE]:
        return f"imported by `from {module} import {name}`"
    return f"`{'.'.join(filter(None, ('eqt', part, name)))}`"


@functools.cache
def _exports() -> dict[str, list[str]]:
    """The names of the package and of its public parts, of which few may be imported.

    So their files are read: to import them all takes long, and needs other libraries.
    """
    package = resources.files(_PACKAGE)
    parts = {f"{_PACKAGE}.{p.name}": p for p in package.iterdir() if p.name[0] != "_"}
    files = {m: p / "__init__.py" for m, p in {_PACKAGE: package, **parts}.items()}
    exported = re.compile(r"\b([A-Za-z]\w*) as \1\b")
    return {m: exported.findall(f.read_text()) for m, f in files.items() if f.is_file()}


def _by_letters(names: Iterable[str]) -> dict[str, str]:
    return {_letters(name): name for name in names}


def _letters(name: str) -> str:
    return name.lower().replace("_", "")


_ESTIMATES = (
    "Estimates at finite width: `eqt.monte_carlo(net, x1, x2, key, n_samples)`."
)
_EMPIRICAL = "It is called with a model or a function, `eqt.{0}(model, x1, x2)`."

OF_PACKAGE = Said(
    {
        "taylor_expand": "taylorize",
        "EmpiricalKernel": "Kernel",
        "kernel_fn": "kernel",
        "from_flax": "from_function",
        "from_haiku": "from_function",
        "stax": "nn",
    },
    {
        "monte_carlo_kernel_fn": _ESTIMATES,
        "empirical_ntk_fn": _EMPIRICAL.format("empirical_ntk"),
        "empirical_nngp_fn": _EMPIRICAL.format("empirical_nngp"),
        "empirical_kernel_fn": _EMPIRICAL.format("empirical_kernel"),
        "empirical_ntk_vp_fn": "Products with it: `eqt.NTKOperator(model, x).mv(v)`.",
        "empirical_direct_ntk_fn": _EMPIRICAL.format("empirical_ntk"),
        "empirical_implicit_ntk_fn": _EMPIRICAL.format("empirical_ntk"),
        "batch": (
            "Kernels are computed in tiles that fit the memory; over several devices, "
            "or into a store, by `eqt.gram(net, x1, x2, mesh=...)`."
        ),
        "NtkImplementation": 'It is a string: `implementation="structured"`, say.',
    },
)
