"""Packages that only some functions need, and that extras of this one install."""

import importlib
from typing import Any


def needed(package: str, extra: str, purpose: str) -> Any:
    """A package, imported when it is first used: some take long, and few need them.

    **Raises:** `ImportError` that says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{purpose} needs the package `{package.partition('.')[0]}`: "
            f"`pip install 'eqtangents[{extra}]'`."
        ) from error
