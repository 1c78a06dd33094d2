"""What single precision loses in kernels, here and in the reference, by depth.

The kernels of each library in float32 are compared with its own in float64, on the same
inputs. Networks are lists of parts, as in `benchmarks.cases.kernels`.
"""

from typing import Any

import numpy as np

from benchmarks.cases import kernels as k
from benchmarks.harness import OURS, REFERENCE, Answer, Case, Figures, Run


DTYPES = ("float32", "float64")
DEPTHS = (10, 100, 1_000, 10_000)
LEAK = 0.2
VECTOR, IMAGE = (6, 8), (4, 3, 16, 16)
SMOKE = ["relu-depth10", "relu-depth100"]

# Layers, weight and bias deviations, depths. The first ones are at the edge of chaos,
# where kernels neither vanish nor explode with depth; the last grows exponentially.
DEEP = {
    "relu": (k.RELU, k.ROOT2, None, DEPTHS),
    "leaky-relu": (
        ["leaky_relu", {"alpha": LEAK}],
        (2 / (1 + LEAK**2)) ** 0.5,
        None,
        DEPTHS,
    ),
    "erf": (["erf", {"a": np.pi**0.5 / 2}], 1.0, None, DEPTHS),
    "tanh": (["tanh", {}], 1.0, None, DEPTHS),
    "erf-chaotic": (["erf", {"a": 1.0}], 1.3, 0.2, DEPTHS[:2]),
}
WHOLE = {
    "conv21-pooled": k.deep(21, k.GLOBAL_AVG_POOL),
    "conv21-flattened": k.deep(21, k.FLATTEN),
    "myrtle5": k.myrtle(),
    "wide-resnet28": k.wide_resnet(4),
}


def cases(*, tiny: bool) -> dict[str, Case]:
    """All cases by name, the deep ones once for each depth; small as they are."""
    found = {}
    for name, (activation, weight_std, bias_std, depths) in DEEP.items():
        linear = k.linear(weight_std, bias_std)
        for depth in depths:
            job = {"first": [linear], "block": [activation, linear], "depth": depth}
            found[f"{name}-depth{depth}"] = precision_of(job, VECTOR)
    for name, network in WHOLE.items():
        job = {"first": network, "block": [], "depth": 0}
        found[f"{name}-precision"] = precision_of(job, IMAGE)
    return found


def precision_of(job: dict[str, Any], shape: tuple[int, ...]) -> Case:
    """The kernels of one network in both precisions, by both libraries."""
    # Examples of different norms.
    x = np.random.default_rng(1).standard_normal(shape, "f4")
    parts = job["block"] or job["first"]
    return Case(
        about=" and ".join(dict.fromkeys(kind for kind, _ in parts))
        + (f", {job['depth']} times" if job["depth"] else ""),
        inputs=lambda: {"x": x},
        runs={
            f"{library} {dtype}": Run(library, f"precision_{library}", job, dtype=dtype)
            for library in (OURS, REFERENCE)
            for dtype in DTYPES
        },
        check=check,
    )


def check(answers: dict[str, Answer]) -> Figures:
    """The largest error of each kernel, relative to its largest entry."""
    figures: Figures = {}
    for library in (OURS, REFERENCE):
        if f"{library} float32" in answers:
            single, double = (answers[f"{library} {dtype}"] for dtype in DTYPES)
            for kernel, truth in double.items():
                error = np.max(np.abs(single[kernel] - truth)) / np.max(np.abs(truth))
                figures[f"{kernel} error of {library}"] = float(error)
    return figures
