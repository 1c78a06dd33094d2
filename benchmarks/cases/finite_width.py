"""Tangent kernels of finite networks: our choice and three ways, beside theirs.

The kernel is that of one batch with another. Networks are named by the keys of `KINDS`
in `benchmarks.children.finite_networks`, in plain JAX, the same for both libraries.
"""

import functools
from typing import Any

import numpy as np

from benchmarks.harness import (
    OURS,
    REFERENCE,
    Answer,
    Case,
    Failed,
    Figures,
    Run,
    relative_error,
)


WAYS = ["structured", "jacobian", "vector_products"]
TOLERANCE = 1e-3
SMOKE = ["fc2-256-out10", "resnet-out10", "transformer-out10"]


def cases(*, tiny: bool) -> dict[str, Case]:
    """All cases by name: depth, width, outputs. `tiny`: one size of each kind."""
    found = {}
    for outputs, batches in {10: FC_BATCHES, 100: FC_BATCHES_OF_100}.items():
        for (depth, width), n in batches.items():
            sizes = {"width": width, "depth": depth, "outputs": outputs}
            name = f"fc{depth}-{width}-out{outputs}"
            found[name] = tangent_kernel("fully_connected", sizes, n, tiny)
    for outputs, n in {10: 4, 1000: 1}.items():
        sizes = {"channels": 16, "outputs": outputs, "size": 32}
        found[f"resnet-out{outputs}"] = tangent_kernel("resnet", sizes, n, tiny)
    sizes = {"width": 64, "length": 32, "layers": 2, "outputs": 10}
    found["transformer-out10"] = tangent_kernel("transformer", sizes, 4, tiny)
    return found


# Examples in a batch, by depth and width.
FC_BATCHES = {
    (2, 256): 16,
    (10, 256): 16,
    (2, 1024): 8,
    (10, 1024): 8,
    (2, 4096): 2,
    (10, 4096): 1,
}
FC_BATCHES_OF_100 = {
    (2, 256): 4,
    (10, 256): 4,
    (2, 1024): 4,
    (10, 1024): 2,
    (2, 4096): 1,
}
TINY: dict[str, tuple[dict[str, int], int]] = {
    "fully_connected": ({"width": 8, "depth": 2, "outputs": 3, "inputs": 4}, 3),
    "resnet": ({"channels": 2, "outputs": 3, "size": 8}, 2),
    "transformer": ({"width": 8, "length": 4, "layers": 1, "outputs": 3}, 2),
}


def tangent_kernel(kind: str, sizes: dict[str, int], n: int, tiny: bool) -> Case:
    """The kernel of `n` examples with `n` others, in all ways of both libraries."""
    if tiny:
        sizes, n = TINY[kind]
    job: dict[str, Any] = {"kind": kind, "sizes": sizes, "n": n}
    runs = {
        f"{library} {way}": Run(
            library,
            f"finite_width_{library}",
            {**job, "way": way},
            may_fail=way != "auto" and not tiny,
        )
        for library, ways in {OURS: ["auto", *WAYS], REFERENCE: WAYS}.items()
        for way in ways
    }
    described = ", ".join(f"{name} {value}" for name, value in sizes.items())
    return Case(
        about=f"{kind.replace('_', '-')}, {described}; n={n}",
        # Those are drawn in each process: there may be 160 million parameters.
        inputs=dict,
        runs=runs,
        check=check,
    )


def check(answers: dict[str, Answer]) -> Figures:
    """The worst difference of any way from the first, and whether there is another."""
    first, *others = answers.values()
    if not others:
        raise Failed("there is no second answer to compare the first one with.")
    within = functools.partial(relative_error, truth=first, tolerance=TOLERANCE)
    return {"error": float(np.max([within(answer) for answer in others]))}
