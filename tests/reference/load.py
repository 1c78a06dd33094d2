"""Reads the files in `cases/` with NumPy alone.

`load_case(path)` gives a `Case`; `cases("named")` the paths of one kind, sorted.
"""

import functools
import json
import pathlib

import numpy as np


CASES = pathlib.Path(__file__).parent / "cases"
_TEXTS = ("spec", "meta", "doc")


def canonical(array, flags, batch_ndim=2):
    """Spatial pairs in the order of the input's axes: `[*batch, H, H, W, W, ..]`."""
    if not flags["is_reversed"] or flags["diagonal_spatial"]:
        return array
    pairs = range(array.ndim - 2, batch_ndim - 1, -2)
    source = [axis for first in pairs for axis in (first, first + 1)]
    return np.moveaxis(array, source, range(batch_ndim, array.ndim))


class Case:
    """One file: `spec`, `meta` and `doc` as they were in JSON, and `arrays` by name."""

    def __init__(self, path):
        self.path = path
        with np.load(path) as file:
            texts = {k: json.loads(str(file[k])) for k in _TEXTS if k in file.files}
        self.spec, self.meta, self.doc = map(texts.get, _TEXTS)

    @functools.cached_property
    def arrays(self):
        """Read when they are first asked for: collecting tests takes texts alone."""
        with np.load(self.path) as file:
            return {k: file[k] for k in file.files if k not in _TEXTS}

    def ok(self, tag="12"):
        """Whether the reference computed this call."""
        return self.meta["calls"][tag]["status"] == "ok"

    def flags(self, tag="12", output=None):
        """How the reference stored the kernel of this call."""
        flags = self.meta["calls"][tag]["flags"]
        return flags if output is None else flags[output]

    def kernel(self, name, tag="12", output=None):
        """`nngp`, `ntk`, `cov1` or `cov2` in canonical order; `None` if absent.

        `output` is an index for networks of several outputs, and `None` for others.
        """
        key = f"{name}_{tag}" + ("" if output is None else f".{output}")
        if key not in self.arrays:
            return None
        flags = self.flags(tag, output)
        diagonal = name.startswith("cov") and flags["diagonal_batch"]
        return canonical(self.arrays[key], flags, 1 if diagonal else 2)


def load_case(path):
    return Case(path)


def cases(kind):
    """Paths of the `named`, `random`, `predict` or `finite` cases."""
    return sorted(CASES.glob(f"{kind}__*.npz"))
