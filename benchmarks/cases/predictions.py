"""Predictions from kernels: both libraries get the same kernel matrices.

One run is everything from the matrices to the answer, factorisation included.
"""

import dataclasses
import functools

import numpy as np

from benchmarks.harness import (
    OURS,
    REFERENCE,
    Answer,
    Case,
    Figures,
    Run,
    relative_error,
)


# Norm of difference over norm. The largest eigenvalue is 1e5 times the noise, so that
# either library's single precision is some 1e-3 from double precision.
TOLERANCE = {"float32": 5e-3, "float64": 1e-6}
OUTPUTS, TIMES, DIMENSION = 10, 50, 20
SETTINGS = {
    "ridge": 1e-2,  # relative to the mean diagonal
    "momentum": 0.9,
    "ode_tolerance": 1.4e-8,  # the reference's, which is fixed
}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One kind of prediction, by what is trained and how."""

    about: str
    dtype: str
    last: float  # of the times, in units of those of the fastest direction
    squared_error: bool = True
    momentum: bool = False
    times: int = TIMES


PREDICTIONS = {
    "squared-error": Prediction("closed form: test outputs", "float32", 1e6),
    "squared-error-end": Prediction("the same, at the end", "float32", np.inf, times=1),
    "squared-error-early": Prediction(
        "the same, at one early time", "float32", 1e3, times=1
    ),
    "ensemble-ntk-end": Prediction(
        "ensemble, all layers, at the end: mean and covariance",
        "float32",
        np.inf,
        times=1,
    ),
    "ensemble-ntk": Prediction(
        "ensemble, all layers: mean and covariance", "float32", 1e6
    ),
    "ensemble-nngp": Prediction(
        "ensemble, last layer: mean and covariance", "float32", 1e6
    ),
    "cross-entropy": Prediction(
        "differential equation: cross-entropy", "float64", 200.0, squared_error=False
    ),
    "cross-entropy-momentum": Prediction(
        "the same with momentum",
        "float64",
        40.0,
        squared_error=False,
        momentum=True,
    ),
}
SMOKE = list(PREDICTIONS)


def cases(*, tiny: bool) -> dict[str, Case]:
    """All cases by name."""
    n_train, n_test = (40, 10) if tiny else (2000, 500)
    return {
        name: Case(
            about=f"{one.about}; {n_train} to train, {n_test} to test",
            inputs=functools.partial(inputs, one, n_train, n_test),
            runs={
                library: Run(
                    library,
                    f"predictions_{library}",
                    {"case": name, **SETTINGS},
                    dtype=one.dtype,
                )
                for library in (OURS, REFERENCE)
            },
            check=functools.partial(check, TOLERANCE[one.dtype]),
        )
        for name, one in PREDICTIONS.items()
    }


def check(tolerance: float, answers: dict[str, Answer]) -> Figures:
    """The worst difference of the libraries."""
    if REFERENCE not in answers:
        return {"error": None}
    return {"error": relative_error(answers[OURS], answers[REFERENCE], tolerance)}


def inputs(case: Prediction, n_train: int, n_test: int) -> dict[str, np.ndarray]:
    """Kernels of a network of two hidden ReLU layers, by the arc-cosine formulas."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n_train + n_test, DIMENSION))
    nngp = x @ x.T / DIMENSION * 2 + 0.01
    ntk = nngp
    for scale in (2.0, 1.0):
        size = np.sqrt(np.diagonal(nngp))
        cosine = np.clip(nngp / np.outer(size, size), -1, 1)
        angle = np.arccos(cosine)
        sine = np.sqrt(1 - cosine**2)
        dual = np.outer(size, size) * (sine + (np.pi - angle) * cosine) / (2 * np.pi)
        slope = (np.pi - angle) / (2 * np.pi)
        nngp, ntk = scale * dual + 0.01, scale * (ntk * slope) + scale * dual + 0.01
    train, test = slice(None, n_train), slice(n_train, None)
    labels = rng.integers(OUTPUTS, size=n_train)
    one_hot = np.eye(OUTPUTS)[labels]
    fastest = np.linalg.eigvalsh(ntk[train, train])[-1] / n_train
    if case.squared_error:
        fastest /= OUTPUTS
        one_hot -= 1 / OUTPUTS
    unit = 1 / fastest**0.5 if case.momentum else 1 / fastest
    arrays = {
        "nngp_train_train": nngp[train, train],
        "nngp_test_train": nngp[test, train],
        "nngp_test_test": nngp[test, test],
        "ntk_train_train": ntk[train, train],
        "ntk_test_train": ntk[test, train],
        "y": one_hot,
        "t": np.geomspace(1, 1e-3, case.times)[::-1] * case.last * unit,
    }
    return {name: array.astype(case.dtype) for name, array in arrays.items()}
