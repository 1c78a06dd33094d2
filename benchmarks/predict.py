"""Predictions from kernels, beside Neural Tangents: `python -m benchmarks.predict`.

Both libraries get the same kernel matrices, as files. Each measurement is a process of
its own, and they take turns; their answers are compared before anything is reported.
One run is everything from the matrices to the answer, factorisation included.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from benchmarks.measure import peak_mib, version
from benchmarks.reference_env import reference_python


ROOT = pathlib.Path(__file__).parents[1]
# Norm of difference over norm. The largest eigenvalue is 1e5 times the noise, so that
# either library's single precision is some 1e-3 from double precision.
TOLERANCE = {"float32": 5e-3, "float64": 1e-6}
OUTPUTS, TIMES, DIMENSION = 10, 50, 20
LEARNING_RATE = 1.0


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of prediction."""

    about: str
    dtype: str
    last: float  # of the times, in units of those of the fastest direction


CASES = {
    "mse": Case("closed form: test outputs", "float32", 1e6),
    "ensemble-ntk": Case("ensemble, all layers: mean and covariance", "float32", 1e6),
    "ensemble-nngp": Case("ensemble, last layer: mean and covariance", "float32", 1e6),
    "ode": Case("differential equation: cross-entropy", "float64", 200.0),
    "ode-momentum": Case("the same with momentum", "float64", 40.0),
}
RIDGE = 1e-2  # relative to the mean diagonal
MOMENTUM = 0.9
ODE_TOLERANCE = 1.4e-8  # the reference's, which is fixed


def inputs(case: Case, n_train: int, n_test: int) -> dict[str, np.ndarray]:
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
    if not case.about.startswith(("diff", "the same")):
        fastest /= OUTPUTS
        one_hot -= 1 / OUTPUTS
    unit = 1 / fastest**0.5 if "momentum" in case.about else 1 / fastest
    arrays = {
        "nngp_train_train": nngp[train, train],
        "nngp_test_train": nngp[test, train],
        "nngp_test_test": nngp[test, test],
        "ntk_train_train": ntk[train, train],
        "ntk_test_train": ntk[test, train],
        "y": one_hot,
        "t": np.geomspace(1e-3, 1, TIMES) * case.last * unit,
    }
    return {name: array.astype(case.dtype) for name, array in arrays.items()}


# ------------------------------------------------------------------------------------
# In the process of one library; nothing here may need a new JAX.
# ------------------------------------------------------------------------------------


def work(package: str, functions: dict[str, Callable]) -> None:
    """Do `job.json` of the folder `sys.argv[1]`; leave `answer.npz`, `record.json`."""
    folder = pathlib.Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    jax.config.update("jax_enable_x64", job["dtype"] == "float64")
    with np.load(job["inputs"]) as file:
        arrays = {name: jax.device_put(file[name]) for name in file.files}
    imported_mib = peak_mib()
    start = time.perf_counter()
    compiled = jax.jit(functions[job["case"]]).lower(arrays).compile()
    compile_s = time.perf_counter() - start
    answer = jax.block_until_ready(compiled(arrays))
    runs = []
    for _ in range(job["repeats"]):
        start = time.perf_counter()
        jax.block_until_ready(compiled(arrays))
        runs.append(time.perf_counter() - start)
    record = {
        "compile_s": compile_s,
        "run_s": runs,
        "peak_mib": peak_mib(),
        "imported_mib": imported_mib,
        "device": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in (package, "jax", "jaxlib")},
    }
    np.savez(folder / "answer.npz", **answer)
    (folder / "record.json").write_text(json.dumps(record))


# ------------------------------------------------------------------------------------
# The process that compares them.
# ------------------------------------------------------------------------------------


def main() -> int:
    options = parse()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    failed = []
    print(f"{'case':14} {'run s':>15} {'ratio':>6} {'compile s':>13} "
          f"{'peak MiB':>13} {'error':>6}  what")  # fmt: skip
    with options.out.open("a") as log:
        for name in options.cases or CASES:
            records, error = compare(name, options)
            for record in records:
                log.write(json.dumps(record | {"relative_error": error}) + "\n")
            log.flush()
            print(row(name, records, error), flush=True)
            if error is not None and not error <= TOLERANCE[CASES[name].dtype]:
                failed.append(name)
    print("\nPairs are eqtangents / Neural Tangents; ratio: how many times faster.")
    print(f"Failed, answers differ: {', '.join(failed)}" if failed else "No failures.")
    return bool(failed)


def compare(name: str, options: argparse.Namespace) -> tuple[list[dict], float | None]:
    """All rounds of a case, and the worst difference of the answers."""
    case = CASES[name]
    libraries = ["eqtangents"] + ["reference"] * (options.reference_python is not None)
    records, errors = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/inputs.npz"
        np.savez(path, **inputs(case, options.train, options.test))
        job = {"case": name, "dtype": case.dtype, "inputs": path}
        job["repeats"] = options.repeats
        for round_ in range(options.rounds):
            answers = []
            for library in libraries:
                record, answer = measure(library, job, options)
                about = {"case": name, "library": library, "round": round_}
                about |= {"dtype": case.dtype, "n_train": options.train}
                about |= {"n_test": options.test, "cores": os.cpu_count()}
                records.append(about | record)
                answers.append(answer)
            for key in answers[0]:
                assert np.isfinite(answers[0][key]).all(), key
                if len(answers) == 2:
                    gap = np.linalg.norm(answers[0][key] - answers[1][key])
                    errors.append(float(gap / np.linalg.norm(answers[1][key])))
    return records, max(errors, default=None)


def measure(
    library: str, job: dict, options: argparse.Namespace
) -> tuple[dict, dict[str, np.ndarray]]:
    """Do `job` once, in a fresh process."""
    prefixes = ("JAX_", "XLA_", "PYTHONPATH")
    env = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    env |= {"JAX_PLATFORMS": options.platform, "TF_CPP_MIN_LOG_LEVEL": "3"}
    python = options.reference_python
    if library == "eqtangents":
        env["PYTHONPATH"], python = str(ROOT / "src"), sys.executable
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "job.json").write_text(json.dumps(job))
        command = [python, "-m", f"benchmarks.run_predict_{library}", folder]
        subprocess.run(
            command, cwd=ROOT, env=env, check=True, stderr=subprocess.DEVNULL
        )
        with np.load(folder / "answer.npz") as answer:
            return json.loads((folder / "record.json").read_text()), dict(answer)


def row(name: str, records: list[dict], error: float | None) -> str:
    grouped = {}
    for record in records:
        grouped.setdefault(record["library"], []).append(record)
    median = lambda rs: statistics.median(s for r in rs for s in r["run_s"])
    runs = [median(rs) for rs in grouped.values()]
    compiles = [
        statistics.median(r["compile_s"] for r in rs) for rs in grouped.values()
    ]
    peaks = [max(r["peak_mib"] for r in rs) for rs in grouped.values()]
    both = lambda values, form: " / ".join(format(v, form) for v in values)
    ratio = f"{runs[1] / runs[0]:.2f}" if len(runs) == 2 else ""
    return (
        f"{name:14} {both(runs, '.3g'):>15} {ratio:>6} {both(compiles, '.3g'):>13} "
        f"{both(peaks, '.0f'):>13} {'' if error is None else f'{error:.0e}':>6}  "
        f"{CASES[name].about}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    add("--train", type=int, default=2000)
    add("--test", type=int, default=500)
    add("--smoke", action="store_true", help="tiny, eqtangents alone, one run each")
    add("--repeats", type=int, default=2, help="timed runs in a process (default: 2)")
    add("--rounds", type=int, default=1, help="processes of each library (default: 1)")
    add("--platform", default="cpu")
    add("--reference-python", metavar="PATH", help="a Python with neural-tangents")
    add("--no-reference", action="store_true", help="time eqtangents alone")
    default = ROOT / "benchmarks" / "results" / "predict.jsonl"
    add("--out", type=pathlib.Path, default=default, help="JSON lines")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown cases {sorted(unknown)}; there are {', '.join(CASES)}.")
    if options.smoke:
        options.no_reference, options.repeats = True, 1
        options.train, options.test, options.out = 40, 10, pathlib.Path(os.devnull)
    if options.no_reference:
        options.reference_python = None
    elif options.reference_python is None:
        options.reference_python = reference_python()
    return options


if __name__ == "__main__":
    sys.exit(main())
