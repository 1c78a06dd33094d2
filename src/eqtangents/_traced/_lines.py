"""Which line of a model's own source an equation comes from."""

import functools
import linecache
import os
import sys
from pathlib import Path
from typing import Any

from jax.extend import core


# Whose lines say nothing about a model.
_LIBRARIES = ("jax", "jaxlib", "equinox", "flax", "haiku", "numpy", "eqtangents")


# Modules that wrap functions, `functools` and `contextlib` say, are right in here.
_PYTHONS_OWN = os.path.dirname(functools.__file__)


@functools.cache
def _folders() -> tuple[str, ...]:
    """The folders of these libraries, as far as they have been imported."""
    found = []
    for name in _LIBRARIES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            found.append(str(Path(file).parent) + os.sep)
    return (*found, "<frozen", os.sep + "importlib" + os.sep)


def line_of(eqn: core.JaxprEqn) -> str:
    """The innermost line that is no library's, `file.py:12` and what stands there."""
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback else ():
        name = frame.file_name
        if name.startswith(_folders()) or os.path.dirname(name) == _PYTHONS_OWN:
            continue
        text = linecache.getline(name, frame.line_num).strip()
        text = f" `{text}`" if text else ""
        return f"{os.path.basename(name)}:{frame.line_num}{text}"
    return ""


def calls_library(eqn: core.JaxprEqn) -> bool:
    """Whether what an equation calls was written in a library.

    JAX keeps such programs, so that the lines within may be those of another call.
    """
    program: Any = eqn.params.get("jaxpr")
    about = getattr(getattr(program, "jaxpr", program), "debug_info", None)
    where = getattr(about, "func_src_info", None) or ""
    return any(folder in where for folder in _folders())
