"""What single precision loses, here and in Neural Tangents, by depth:
`python -m benchmarks.precision`.

Each library's kernels in float32 are compared with its own in float64, on the same
inputs. The reference runs in its own Python.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

import eqtangents as eqt
from benchmarks import workloads as w
from benchmarks.reference_env import reference_python
from benchmarks.run_eqtangents import sequential
from eqtangents import nn


ROOT = pathlib.Path(__file__).parents[1]
DTYPES = ("float32", "float64")
DEPTHS = (10, 100, 1_000, 10_000)
LEAK = 0.2


def deep(
    activation: list,
    weight_std: float,
    bias_std: float | None = None,
    depths: tuple[int, ...] = DEPTHS,
) -> dict:
    linear = w.linear(weight_std, bias_std)
    return {"first": [linear], "block": [activation, linear], "depths": depths}


def whole(network: w.Network) -> dict:
    return {"first": network, "block": [], "depths": (0,)}


# Parts as in `workloads`. The fully-connected ones are at the edge of chaos, where
# kernels neither vanish nor explode with depth; the last grows exponentially.
CASES = {
    "ReLU": deep(w.RELU, w.ROOT2),
    "leaky ReLU": deep(["leaky_relu", {"alpha": LEAK}], (2 / (1 + LEAK**2)) ** 0.5),
    "Erf": deep(["erf", {"a": np.pi**0.5 / 2}], 1.0),
    "tanh": deep(["tanh", {}], 1.0),
    "Erf, chaotic": deep(["erf", {"a": 1.0}], 1.3, 0.2, DEPTHS[:2]),
    "21 convolutions, pooled": whole(w.deep(21, w.GLOBAL_AVG_POOL)),
    "21 convolutions, flattened": whole(w.deep(21, w.FLATTEN)),
    "Myrtle-5": whole(w.myrtle()),
    "WideResNet-28": whole(w.wide_resnet(4)),
}
VECTOR, IMAGE = (6, 8), (4, 3, 16, 16)


def main() -> None:
    options = parse()
    cases = dict(list(CASES.items())[:1]) if options.smoke else CASES
    depths = DEPTHS[:2] if options.smoke else DEPTHS
    jobs = {
        f"{name}|{depth}": {**case, "depth": depth}
        for name, case in cases.items()
        for depth in case["depths"]
        if depth in (0, *depths)
    }
    kernels = {"eqtangents": {t: ours(jobs, t) for t in DTYPES}}
    if not options.no_reference:
        python = options.reference_python or reference_python()
        kernels["Neural Tangents"] = {t: theirs(jobs, t, python) for t in DTYPES}
    processor = platform.processor() or platform.machine()
    print(f"JAX {jax.__version__}, {processor}. Errors of (NNGP, NTK), the largest,\n")
    print(f"| network | depth | {' | '.join(kernels)} |")
    print("|---" * (2 + len(kernels)) + "|")
    for job in jobs:
        name, depth = job.split("|")
        cells = [
            ", ".join(f"{e:.0e}" for e in errors(found["float32"], found["float64"]))
            for library in kernels.values()
            for found in [{t: library[t][job] for t in DTYPES}]
        ]
        print(f"| {name} | {depth if int(depth) else ''} | {' | '.join(cells)} |")


def inputs(job: dict) -> np.ndarray:
    """Examples of different norms: vectors, or small images where there are filters."""
    images = any(kind in ("conv", "residual") for kind, _ in job["first"])
    shape = IMAGE if images else VECTOR
    return np.random.default_rng(1).standard_normal(shape, "f4")


def errors(single: list[np.ndarray], double: list[np.ndarray]) -> list[float]:
    """The largest of each kernel, relative to its largest entry."""
    pairs = zip(single, double, strict=True)
    return [float(np.max(np.abs(s - d)) / np.max(np.abs(d))) for s, d in pairs]


def ours(jobs: dict, dtype: str) -> dict[str, list[np.ndarray]]:
    found = {}
    with jax.enable_x64(dtype == "float64"):
        for name, job in jobs.items():
            layers = list(sequential(job["first"]).layers)
            if job["depth"]:
                layers.append(nn.Repeat(sequential(job["block"]), job["depth"]))
            x = jnp.asarray(inputs(job), dtype)
            both = eqt.kernel(nn.Sequential(layers), x)
            found[name] = [np.asarray(k, np.float64) for k in (both.nngp, both.ntk)]
    return found


def theirs(
    jobs: dict, dtype: str, python: str | pathlib.Path
) -> dict[str, list[np.ndarray]]:
    """The same of the reference, in its own Python."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        np.savez(folder / "inputs.npz", **{k: inputs(job) for k, job in jobs.items()})
        (folder / "jobs.json").write_text(json.dumps(jobs))
        command = [python, "-m", "benchmarks.precision_reference", folder, dtype]
        subprocess.run(command, cwd=ROOT, check=True)
        answer = np.load(folder / "answer.npz")
        return {k: list(answer[k].astype(np.float64)) for k in jobs}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--reference-python", help="a Python with neural-tangents")
    add("--no-reference", action="store_true", help="eqtangents alone")
    add("--smoke", action="store_true", help="one small network")
    return parser.parse_args()


if __name__ == "__main__":
    main()
