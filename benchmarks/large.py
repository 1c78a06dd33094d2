"""Large kernels: steps, seconds and memory of solving with them.

    python -m benchmarks.large solve --points 10000 --rank 500
    python -m benchmarks.large solve --points 10000 --rank 500 --never-formed
    python -m benchmarks.large parts --points 100000 --share 0.05
    python -m benchmarks.large peer --points 10000 --rank 500 --peer-python PATH

The table is that of 53,940 diamonds, which the package `plotnine` carries. `peer` has
eqtangents and GPyTorch predict from the same kernel, the arc-cosine kernel of one
hidden layer, each by conjugate gradients and in a process of its own, and holds both
against an exact solution. PATH is a Python that has `gpytorch` (`pip install gpytorch`
in an environment of its own). `parts` computes a share of the tiles of a matrix into a
store, of random inputs, as many as one likes, and compares rows of these with kernels
that are computed without one. Lines of JSON are printed; peak memory is that of the
process, with the libraries.
"""

import argparse
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.children.solves import peak_mib
from benchmarks.machine import ROOT


NOISE, NEW, TOLERANCE = 1e-2, 1000, 1e-3


def table(points):
    """Standardised inputs and targets: the logarithm of the price."""
    diamonds = importlib.import_module("plotnine.data").diamonds
    measured = diamonds[["carat", "depth", "table", "x", "y", "z"]]
    graded = [diamonds[name].cat.codes for name in ("cut", "color", "clarity")]
    x = np.column_stack([measured, *graded]).astype(float)
    y = np.log(diamonds["price"].to_numpy(float))
    order = np.random.default_rng(0).permutation(len(y))[: points + NEW]
    x, y = x[order], y[order]
    x = (x - x[:points].mean(0)) / x[:points].std(0)
    y = y - y[:points].mean()
    return x[:points], y[:points], x[points:], y[points:]


def deep_network(nn):
    """Three hidden layers."""
    hidden = [nn.Linear(64, weight_std=2**0.5, bias_std=0.1), nn.Relu()]
    return nn.Sequential([*hidden * 3, nn.Linear(1)])


class Stopwatch:
    """Seconds since it was last asked, and those of all processors."""

    def __init__(self):
        self.start = self.now()

    def now(self):
        return np.array([time.perf_counter(), time.process_time()])

    def __call__(self, value=None):
        importlib.import_module("jax").block_until_ready(value)
        now = self.now()
        seconds, self.start = now - self.start, now
        return [round(float(one), 2) for one in seconds]


def solve(options):
    """Steps and seconds of one solve."""
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    eqt = importlib.import_module("eqtangents")
    solvers = eqt.solvers
    x, y, x_new, y_new = (jnp.asarray(a, jnp.float32) for a in table(options.points))
    net = deep_network(eqt.nn)
    watch, seconds = Stopwatch(), {}
    never = eqt.GramOperator(net, x, relative_noise=NOISE)
    operator = never
    if not options.never_formed:
        matrix = eqt.gram(net, x)
        seconds["form"] = watch(matrix)
        operator = eqt.GramOperator(matrix, noise=never.noise)
    chosen = eqt.rp_cholesky(operator, options.rank, jax.random.key(0))
    seconds["precondition"] = watch(chosen.values)
    if options.never_formed:
        multiply = jax.jit(lambda v: operator.multiply(v))
        compiled = multiply.lower(y[:, None]).compile()
        seconds["compile a product"] = watch()
        watch(compiled(y[:, None]))
        watch()
        seconds["a product"] = watch(compiled(y[:, None]))
    solver = solvers.BlockCG(chosen, rtol=options.rtol, max_steps=options.steps)
    found = eqt.solve(operator, y, solver, throw=False)
    seconds["solve"] = watch(found.value)
    mean = eqt.GramOperator(net, x_new, x).mv(found.value)
    seconds["predict"] = watch(mean)
    error = jnp.sqrt(jnp.mean((mean - y_new) ** 2) / jnp.var(y_new))
    return {
        "points": options.points,
        "rank": options.rank,
        "never formed": options.never_formed,
        "rtol": options.rtol,
        "steps": int(found.steps),
        "residual": float(found.residual),
        "converged": bool(found.converged),
        "test error": float(error),
        "seconds": seconds,
        "peak MiB": peak_mib(),
    }


class Enough(Exception):
    """A share of the pairs is done."""


def parts(options):
    """A share of a matrix in a store, as kernels computed without one have it."""
    eqt = importlib.import_module("eqtangents")
    net, random = deep_network(eqt.nn), np.random.default_rng(0)
    x = random.normal(size=(options.points, 9)).astype(np.float32)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:

        def until(share):
            """The progress of a call that ends once it has added this much."""
            reports = []

            def report(progress):
                reports.append(progress)
                if progress.done - progress.kept >= share * progress.total:
                    raise Enough

            try:
                eqt.gram(net, x, store=folder, progress=report)
            except Enough:
                pass
            return reports[-1]

        first, seconds = until(options.share), watch()
        again, more = until(0.001), watch()
        files = list(pathlib.Path(folder).glob("matrix/c/*/*"))
        stored = eqt.StoredGram(folder)
        # Tiles are computed row by row: those of the first row are there.
        width = stored.tile[1] * len([one for one in files if one.parent.name == "0"])
        rows = random.choice(stored.tile[0], 20, replace=False)
        found = stored[rows, : min(width, options.points)]
        expected = np.asarray(eqt.ntk(net, x[rows], x[: found.shape[1]]))
        mirrored = stored[: found.shape[1], rows].T
        size = sum(one.stat().st_size for one in files)
    return {
        "points": options.points,
        "tile": stored.tile[0],
        "tiles": len(files),
        "pairs": first.done,
        "share": first.done / first.total,
        "seconds": seconds,
        "kept by another call": again.kept,
        "seconds of that": more,
        "bytes": size,
        "entries compared": found.size,
        "error": float(np.abs(found - expected).max() / np.abs(expected).max()),
        "mirrored": bool(np.array_equal(found, mirrored)),
        "peak MiB": peak_mib(),
    }


def peer(options):
    """Both libraries by steps, and one of them exactly."""
    names = ("x", "y", "x_new", "y_new")
    data = dict(zip(names, table(options.points), strict=True))
    job = {"noise": NOISE, "exactly": False, "runs": 2}
    job |= {name: getattr(options, name) for name in ("rank", "rtol", "dtype")}
    ways = {
        "exactly": (sys.executable, "large_eqtangents", {"exactly": True, "runs": 1}),
        "eqtangents": (sys.executable, "large_eqtangents", {}),
        "gpytorch": (options.peer_python, "large_gpytorch", {}),
    }
    records, answers = {}, {}
    for way, (python, child, more) in ways.items():
        records[way], answers[way] = in_process(python, child, job | more, data)
    exact = answers["exactly"]
    for way, answer in answers.items():
        wrong = np.linalg.norm(answer - exact) / np.linalg.norm(exact)
        records[way]["from exactly"] = float(wrong)
        error = np.sqrt(np.mean((answer - data["y_new"]) ** 2))
        records[way]["test error"] = float(error)
    return {"points": options.points, **job, **records}


def in_process(python, child, job, data):
    """The record and the answer of a module of `benchmarks.children`."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "job.json").write_text(json.dumps(job))
        np.savez(folder / "table.npz", **data)
        command = [python, "-m", f"benchmarks.children.{child}", folder]
        path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
        environment = {**os.environ, "PYTHONPATH": path}
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
        record = json.loads((folder / "record.json").read_text())
        return record, np.load(folder / "answer.npy")


def main():
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["solve", "parts", "peer"])
    parser.add_argument("--points", type=int, default=3000)
    parser.add_argument("--rank", type=int, default=300)
    parser.add_argument("--rtol", type=float, default=TOLERANCE)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--never-formed", action="store_true")
    parser.add_argument(
        "--share", type=float, default=0.05, help="of pairs, in a store"
    )
    parser.add_argument("--folder", help="where stores are made for a while")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--peer-python", default=sys.executable)
    options = parser.parse_args()
    run = {"solve": solve, "parts": parts, "peer": peer}[options.what]
    print(json.dumps(run(options)), flush=True)


if __name__ == "__main__":
    main()
