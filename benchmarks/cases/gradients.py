"""Derivatives of a scalar of the tangent kernel, beside the kernel without them.

They are taken in the inputs, or in a factor of the `weight_std` of all layers, once or
twice. Networks are lists of parts, as in `benchmarks.cases.kernels`.
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


TOLERANCE = 1e-2  # of float32, norm of difference over norm
SMOKE = [
    "conv3-pooled-gradient",
    "conv6-flattened-gradient",
    "fc3-gradient-weight-std",
    "tanh1-hessian-weight-std",
]


def cases(*, tiny: bool) -> dict[str, Case]:
    """All cases by name."""
    image, vector, n = ((3, 16, 16), (784,), None)
    if tiny:
        image, vector, n = ((3, 5, 5), (8,), 3)
    tanh = [k.linear(1.0, 0.1), ["tanh", {}]]
    networks: dict[str, tuple[k.Network, tuple[int, ...], int]] = {
        "conv3-pooled": (k.deep(3, k.GLOBAL_AVG_POOL), image, n or 6),
        "conv6-flattened": (k.deep(6, k.FLATTEN), image, n or 64),
        "fc3": (k.fully_connected(3), vector, n or 1000),
    }
    found = {}
    for name, network in networks.items():
        found[f"{name}-gradient"] = gradient_of(*network, to="inputs")
        found[f"{name}-gradient-weight-std"] = gradient_of(*network, to="weight_std")
    for depth in (1, 2):
        # The reference's quadrature takes too long to be differentiated twice.
        network = [*tanh * depth, k.linear()]
        found[f"tanh{depth}-hessian-weight-std"] = gradient_of(
            network, vector, n or 100, to="weight_std", order=2, reference=False
        )
    return found


def gradient_of(
    network: k.Network,
    shape: tuple[int, ...],
    n: int,
    *,
    to: str,
    order: int = 1,
    reference: bool = True,
) -> Case:
    """The derivative of a random combination of the entries of `n` by `n` examples."""
    job: dict[str, Any] = {"network": network, "to": to, "order": order}
    kinds = [kind for kind, _ in network]
    parts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    derivative = "gradient" if order == 1 else "second derivative"
    return Case(
        about=f"{derivative} in {to}: {parts}; n={n}, {shape}",
        inputs=functools.partial(inputs, n, shape),
        runs={
            library: Run(library, f"gradients_{library}", job, units=n * n)
            for library in ((OURS, REFERENCE) if reference else (OURS,))
        },
        check=check,
        unit="entry",
    )


def inputs(n: int, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Two batches, and the coefficients of the combination."""
    rng = np.random.default_rng(3)
    return k.inputs((n, *shape)) | {"weights": rng.standard_normal((n, n), "f4")}


def check(answers: dict[str, Answer]) -> Figures:
    """The worst difference of the libraries."""
    if REFERENCE not in answers:
        return {"error": None}
    return {"error": relative_error(answers[OURS], answers[REFERENCE], TOLERANCE)}
