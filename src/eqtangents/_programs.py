"""Programs compiled with the options that suit the devices at hand."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, ParamSpec, TypeVar

import equinox as eqx
from jax.extend.core import get_opaque_trace_state

from eqtangents._budget import budget
from eqtangents.duals._elementary import may_be_differentiated


_OfCall = ParamSpec("_OfCall")
_Returned = TypeVar("_Returned")


def whole_program(
    function: Callable[_OfCall, _Returned],
    *,
    donate: Literal["none", "all-except-first"] = "none",
) -> Callable[_OfCall, _Returned]:
    """Compile a function as a program of its own, with the budget's options for these.

    Such a program is not differentiated, and is told so. Within another one, and in
    derivatives, the function is a part like any other: JAX takes options for whole
    programs alone. `donate`: as of `eqx.filter_jit`.
    """

    @functools.cache
    def with_options(options: tuple[tuple[str, Any], ...] | None) -> Any:
        told = None if options is None else dict(options)
        jit: Any = eqx.filter_jit  # whose types leave out what it hands on to JAX
        return jit(function, donate=donate, compiler_options=told)

    @functools.wraps(function)
    def call(*args: _OfCall.args, **kwargs: _OfCall.kwargs) -> _Returned:
        if _within_trace():
            return with_options(None)(*args, **kwargs)
        with may_be_differentiated(False):
            return with_options(budget().compiler_options)(*args, **kwargs)

    return call


# A thread of its own is never within a trace, whoever imports this.
with ThreadPoolExecutor(1) as _thread:
    _OUTSIDE = _thread.submit(get_opaque_trace_state).result()


def _within_trace() -> bool:
    """Whether what is called now becomes part of a program or of a derivative."""
    return get_opaque_trace_state() != _OUTSIDE
