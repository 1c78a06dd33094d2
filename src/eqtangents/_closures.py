"""Functions that hold arrays, from where they were made, as trees of these.

JAX differentiates a function with a rule of its own in its arguments alone. An array
that is being differentiated and that a network's function was made around is none.
"""

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax

from eqtangents._types import is_traced


Tree = TypeVar("Tree")


class _WhatItHolds(NamedTuple):
    """What a function holds: of the functions around it, and as defaults."""

    cells: list[Any]
    defaults: tuple | None
    by_name: dict[str, Any] | None


class _Closure(eqx.Module):
    """A function, with what it holds as a tree."""

    function: Callable = eqx.field(static=True)
    held: _WhatItHolds

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made, held = self.function, self.held
        cells = tuple(map(types.CellType, held.cells))
        parts = made.__code__, made.__globals__, made.__name__, held.defaults
        again = types.FunctionType(*parts, cells)
        again.__kwdefaults__ = held.by_name
        return again(*args, **kwargs)


def with_closures_told(tree: Tree) -> Tree:
    """The same tree, in which arrays that are traced and functions hold are leaves."""
    return jax.tree.map(lambda leaf: _as_tree(leaf, frozenset()), tree)


def _as_tree(leaf: Any, around: frozenset[int]) -> Any:
    """A leaf; `around` are functions that it was found in, and may hold itself."""
    if isinstance(leaf, functools.partial):
        tree = eqx.Partial(leaf.func, *leaf.args, **leaf.keywords)
        within = lambda one: _as_tree(one, around)
        return _if_traced(jax.tree.map(within, tree), leaf)
    if not isinstance(leaf, types.FunctionType) or id(leaf) in around:
        return leaf
    try:
        cells = [cell.cell_contents for cell in leaf.__closure__ or ()]
    except ValueError:  # a name that has no value yet
        return leaf
    held = _WhatItHolds(cells, leaf.__defaults__, leaf.__kwdefaults__)
    within = lambda one: _as_tree(one, around | {id(leaf)})
    return _if_traced(_Closure(leaf, jax.tree.map(within, held)), leaf)


def _if_traced(tree: Any, leaf: Any) -> Any:
    return tree if any(map(is_traced, jax.tree.leaves(tree))) else leaf
