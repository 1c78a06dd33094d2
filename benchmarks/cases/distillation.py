"""A step of dataset distillation: a loss through kernel and solve, and its gradient.

Kernel inducing points (Nguyen, Chen & Lee 2021, arXiv:2011.00050) are a few images, the
support, that are learned: kernel ridge regression from them is to be right on the real
ones. The loss is the squared error there; it is differentiated in the support.
"""

import functools
from typing import Any

import numpy as np

from benchmarks.cases import kernels as k
from benchmarks.harness import (
    OURS,
    REFERENCE,
    Answer,
    Case,
    Figures,
    Run,
    relative_error,
)


try:
    from sklearn.datasets import load_digits
except ImportError:  # of no matter to the time
    load_digits = None


CLASSES = 10
RIDGE = 1e-3  # relative to the mean diagonal
TOLERANCE = 1e-2  # of float32, norm of difference over norm
SMOKE = ["distil-fc-10", "distil-conv-10"]


def cases(*, tiny: bool) -> dict[str, Case]:
    """All cases by name: the kernel, and how many images are learned."""
    found = {}
    kernels = {
        "fc": (k.fully_connected(3), 1000),
        "conv": (k.deep(3, k.GLOBAL_AVG_POOL), 100),
    }
    for kind, (network, n_target) in kernels.items():
        for n_support in (10, 100):
            sizes = (4, 6) if tiny else (n_support, n_target)
            name = f"distil-{kind}-{n_support}"
            found[name] = step_of(network, kind == "fc", *sizes)
    return found


def step_of(network: k.Network, flat: bool, n_support: int, n_target: int) -> Case:
    """One gradient step of the support, seen by a batch of the targets."""
    job: dict[str, Any] = {"network": network, "ridge": RIDGE}
    kind = "fully-connected" if flat else "convolutional, pooled"
    return Case(
        about=f"{kind}, 8x8 digits: {n_support} learned, {n_target} in a batch",
        inputs=functools.partial(inputs, flat, n_support, n_target),
        runs={
            library: Run(library, f"distillation_{library}", job)
            for library in (OURS, REFERENCE)
        },
        check=check,
        unit="step",
    )


def inputs(flat: bool, n_support: int, n_target: int) -> dict[str, np.ndarray]:
    """Digits, or random images without them; labels are centred indicators."""
    rng = np.random.default_rng(0)
    n = n_support + n_target
    if load_digits is None:
        images, classes = rng.standard_normal((n, 8, 8)), rng.integers(CLASSES, size=n)
    else:
        digits = load_digits()
        chosen = rng.permutation(len(digits.images))[:n]
        images, classes = digits.images[chosen], digits.target[chosen]
        images = (images - digits.images.mean()) / digits.images.std()
    x = images.reshape((n, -1) if flat else (n, 1, 8, 8)).astype("f4")
    y = (np.eye(CLASSES)[classes] - 1 / CLASSES).astype("f4")
    arrays = {"support": (x, y, slice(None, n_support))}
    arrays["target"] = (x, y, slice(n_support, None))
    return {
        f"{letter}_{name}": array[part]
        for name, (x, y, part) in arrays.items()
        for letter, array in (("x", x), ("y", y))
    }


def check(answers: dict[str, Answer]) -> Figures:
    """The worst difference of the libraries."""
    if REFERENCE not in answers:
        return {"error": None}
    return {"error": relative_error(answers[OURS], answers[REFERENCE], TOLERANCE)}
