"""Nonlinearities of infinitely wide networks, by the entry and layer.

Each takes its turn in a network of six layers. Of functions without closed form, a
single layer is held against a fine quadrature, ours and the reference's, which is in
two dimensions (`ElementwiseNumerical`).
"""

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


DEPTH = 6
DEGREE = 25  # of the reference's quadrature
CHECKED = 24  # examples whose kernel of one layer is checked
TOLERANCE = {"float32": 1e-3, "quadrature": 1e-6}
# Names in `eqtangents.nn` and what they are made of.
LAYERS = {
    "relu": ("Relu", []),
    "rectified-monomial2": ("RectifiedMonomial", [2]),
    "sign": ("Sign", []),
    "erf": ("Erf", []),
    "gelu": ("Gelu", []),
    "sin": ("Sin", []),
    "rbf": ("Rbf", [0.1]),
    "gaussian": ("Gaussian", []),
    "exp": ("Exp", [1.0, 0.3]),
    "exp-normalized": ("ExpNormalized", []),
    "gabor": ("Gabor", []),
    "polynomial": ("Polynomial", [[0.1, 0.8, 0.1, -0.1]]),
    "tanh": ("Tanh", []),
    "sigmoid": ("Sigmoid", []),
    "softplus": ("Softplus", []),
    "silu": ("Silu", []),
    "elu": ("Elu", []),
    "selu": ("Selu", []),
    "gelu-tanh": ("Gelu", [True]),
}
SMOKE = ["relu", "tanh", "elu"]
FUNCTIONS = {  # with their derivatives, in NumPy
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "sigmoid": (
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x: 0.25 / np.cosh(x / 2) ** 2,
    ),
    "softplus": (lambda x: np.logaddexp(0, x), lambda x: 1 / (1 + np.exp(-x))),
    "silu": (
        lambda x: x / (1 + np.exp(-x)),
        lambda x: (1 + x / (1 + np.exp(x))) / (1 + np.exp(-x)),
    ),
}


def cases(*, tiny: bool) -> dict[str, Case]:
    """All cases by name."""
    return {name: nonlinearity(name, tiny) for name in LAYERS}


def nonlinearity(name: str, tiny: bool) -> Case:
    """One nonlinearity, in both precisions."""
    n, reference_n, depth = (CHECKED, CHECKED, 2) if tiny else (1500, 128, DEPTH)
    layer, arguments = LAYERS[name]
    job = {"layer": layer, "arguments": arguments, "depth": depth}
    runs = {
        f"{OURS} {dtype}": Run(
            OURS, "nonlinearities_eqtangents", job, dtype=dtype, units=n * n * depth
        )
        for dtype in ("float64", "float32")
    }
    if name in FUNCTIONS:
        runs[REFERENCE] = Run(
            REFERENCE,
            "nonlinearities_reference",
            {"function": name, "degree": DEGREE, "n": reference_n},
            dtype="float64",
            units=reference_n**2,
        )
    return Case(
        about=f"{layer}; n={n}",
        inputs=lambda: {"x": examples(n), "checked": examples(CHECKED)},
        runs=runs,
        check=functools.partial(check, name),
        unit="entry and layer",
    )


def examples(n: int) -> np.ndarray:
    """Examples whose variances after the first layer are 0.01 to 10."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 16))
    norms = 4 * np.geomspace(0.1, 10**0.5, n)
    return x / np.linalg.norm(x, axis=1, keepdims=True) * norms[:, None]


def check(name: str, answers: dict[str, Answer]) -> Figures:
    """Errors of float32, and of all against a quadrature where there is one."""
    double, single = (answers[f"{OURS} {t}"] for t in ("float64", "float32"))
    # A step has an infinite tangent kernel at equal inputs, so any finite number there.
    compared = {k: v for k, v in double.items() if (name, k) != ("sign", "ntk")}
    figures: Figures = {
        "error of float32": relative_error(single, compared, TOLERANCE["float32"])
    }
    if name in FUNCTIONS:
        cov, derivative = quadrature(examples(CHECKED), FUNCTIONS[name])
        exact = {"nngp": cov, "ntk": derivative}
        relative_error(double, exact, TOLERANCE["quadrature"])
        for run in (f"{OURS} float64", REFERENCE):
            for kernel in exact if run in answers else ():
                error = error_by_diagonal(answers[run][kernel], exact[kernel])
                figures[f"{kernel} error of {run}"] = error
    return figures


def error_by_diagonal(kernel: np.ndarray, truth: np.ndarray) -> float:
    """The largest error, relative to the diagonal."""
    scale = np.sqrt(np.abs(np.diag(truth)))
    return float(np.max(np.abs(kernel - truth) / np.outer(scale, scale)))


def quadrature(x: np.ndarray, functions: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The two kernels, slowly."""
    edges = np.array([0, 0.1, 0.5, 1.5, 4, 12])
    edges = np.concatenate([-edges[:0:-1], edges])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    half = 0.5 * np.diff(edges)[:, None]
    z = (edges[:-1, None] + half * (nodes + 1)).ravel()
    weights = (half * weights).ravel() * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    cov = x @ x.T / x.shape[1]
    std = np.sqrt(np.diag(cov))
    results = [np.zeros_like(cov) for _ in functions]
    for i, j in np.ndindex(cov.shape):
        r = np.clip(cov[i, j] / (std[i] * std[j]), -1, 1)
        v = std[j] * (r * z[:, None] + np.sqrt(1 - r * r) * z)
        for result, f in zip(results, functions, strict=True):
            result[i, j] = (weights * f(std[i] * z)) @ (f(v) @ weights)
    return results[0], results[1] * cov
