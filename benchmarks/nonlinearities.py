"""Cost of every nonlinearity beside that of the rectifier, and the accuracy of those
without closed form beside Neural Tangents': `python -m benchmarks.nonlinearities`.

The reference's quadrature in two dimensions (`ElementwiseNumerical`, of degree 25) is
run in its own Python, on the same inputs and functions.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

import eqtangents as eqt
from benchmarks.reference_env import reference_python
from eqtangents import nn


ROOT = pathlib.Path(__file__).parents[1]
DEPTH = 6
DEGREE = 25  # of the reference's quadrature
ACCURACY_N = 24
CLOSED = {
    "Relu": nn.Relu(),
    "RectifiedMonomial(2)": nn.RectifiedMonomial(2),
    "Sign": nn.Sign(),
    "Erf": nn.Erf(),
    "Gelu": nn.Gelu(),
    "Sin": nn.Sin(),
    "Rbf": nn.Rbf(0.1),
    "Gaussian": nn.Gaussian(),
    "Exp": nn.Exp(1.0, 0.3),
    "ExpNormalized": nn.ExpNormalized(),
    "Gabor": nn.Gabor(),
    "Polynomial": nn.Polynomial((0.1, 0.8, 0.1, -0.1)),
}
FUNCTIONS = {  # with their slopes, in NumPy
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


def main() -> None:
    options = parse()
    jax.config.update("jax_enable_x64", True)
    expanded = {f.capitalize(): getattr(nn, f.capitalize())() for f in FUNCTIONS}
    kinked = {"Elu": nn.Elu(), "Selu": nn.Selu(), "Gelu(tanh)": nn.Gelu(True)}
    layers = {**CLOSED, **expanded, **kinked}
    print("Nanoseconds per entry and layer, NNGP and NTK; times that of Relu.\n")
    print("| nonlinearity | float32 | | float64 | |\n|---|---|---|---|---|")
    times = {}
    for name, layer in layers.items():
        for dtype in (jnp.float32, jnp.float64):
            times[name, dtype] = time_layer(layer, options.n, dtype, options.repeats)
        cells = []
        for dtype in (jnp.float32, jnp.float64):
            ns = times[name, dtype]
            cells.append(f"{ns:.2f} | {ns / times['Relu', dtype]:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    compare(options, times)


def inputs(n: int) -> np.ndarray:
    """Examples whose variances after the first layer are 0.01 to 10."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 16))
    norms = 4 * np.geomspace(0.1, 10**0.5, n)
    return x / np.linalg.norm(x, axis=1, keepdims=True) * norms[:, None]


def time_layer(layer: nn.AbstractLayer, n: int, dtype: type, repeats: int) -> float:
    """Nanoseconds for an entry of one layer, the median of some runs."""
    x = jnp.asarray(inputs(n), dtype)
    block = [nn.Linear(1, weight_std=1.0, bias_std=0.1), layer]
    net = nn.Sequential([*block * DEPTH, nn.Linear(1)])
    run = jax.jit(lambda a, b: eqt.kernel(net, a, b)).lower(x, x).compile()
    jax.block_until_ready(run(x, x))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run(x, x))
        seconds.append(time.perf_counter() - start)
    return 1e9 * float(np.median(seconds)) / (n * n * DEPTH)


def compare(options: argparse.Namespace, times: dict) -> None:
    """Errors of one layer's kernels against a fine quadrature, and times."""
    reference = {} if options.no_reference else run_reference(options)
    print(f"\nErrors (NNGP, NTK), float64; the reference's degree is {DEGREE}.\n")
    print("| function | error | its error | ns | its ns |\n|---|---|---|---|---|")
    x = inputs(ACCURACY_N)
    for name, functions in FUNCTIONS.items():
        net = nn.Sequential([nn.Linear(1), getattr(nn, name.capitalize())()])
        exact = quadrature(x, functions)
        ours = eqt.kernel(net, jnp.asarray(x), jnp.asarray(x))
        cells = [errors((ours.nngp, ours.ntk), exact)]
        theirs = reference.get(name)
        cells.append(errors(theirs["kernels"], exact) if theirs else "")
        cells.append(f"{times[name.capitalize(), jnp.float64]:.1f}")
        cells.append(f"{theirs['ns']:.0f}" if theirs else "")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def errors(kernels: tuple, exact: tuple) -> str:
    """The largest of each kernel, relative to its diagonal."""
    largest = []
    for kernel, truth in zip(kernels, exact, strict=True):
        scale = np.sqrt(np.abs(np.diag(truth)))
        largest.append(
            np.max(np.abs(np.asarray(kernel) - truth) / np.outer(scale, scale))
        )
    return ", ".join(f"{error:.0e}" for error in largest)


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


def run_reference(options: argparse.Namespace) -> dict:
    """The same of the reference, in its own Python."""
    python = options.reference_python or reference_python()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        np.save(folder / "x.npy", inputs(ACCURACY_N))
        job = {"functions": list(FUNCTIONS), "degree": DEGREE, "n": options.reference_n}
        (folder / "job.json").write_text(json.dumps(job))
        command = [python, "-m", "benchmarks.nonlinearities_reference", folder]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        answer, ns = (
            np.load(folder / "answer.npz"),
            json.loads((folder / "ns.json").read_text()),
        )
        return {
            f: {"kernels": (answer[f"{f}_nngp"], answer[f"{f}_ntk"]), "ns": ns[f]}
            for f in FUNCTIONS
        }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--n", type=int, default=1500, help="examples in our timings")
    add("--reference-n", type=int, default=128, help="examples in the reference's")
    add("--repeats", type=int, default=5)
    add("--reference-python", help="a Python with neural-tangents")
    add("--no-reference", action="store_true", help="eqtangents alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
