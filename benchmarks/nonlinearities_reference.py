"""The reference's part of `benchmarks.nonlinearities`, in the reference's own Python.

It runs on the reference's old JAX: nothing of eqtangents may be imported here.
"""

import json
import pathlib
import sys
import time
import warnings

import jax
import numpy as np
from neural_tangents import stax


FUNCTIONS = {
    "tanh": jax.numpy.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
}


def main() -> None:
    warnings.simplefilter("ignore")
    jax.config.update("jax_enable_x64", True)
    folder = pathlib.Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    x = np.load(folder / "x.npy")
    answers, ns = {}, {}
    for name in job["functions"]:
        numerical = stax.ElementwiseNumerical(FUNCTIONS[name], deg=job["degree"])
        _, _, kernel_fn = stax.serial(stax.Dense(1), numerical)
        run = jax.jit(lambda a, b, k=kernel_fn: tuple(k(a, b, ("nngp", "ntk"))))
        answers[f"{name}_nngp"], answers[f"{name}_ntk"] = map(np.asarray, run(x, x))
        many = np.concatenate([x] * (job["n"] // len(x) + 1))[: job["n"]]
        jax.block_until_ready(run(many, many))
        start = time.perf_counter()
        jax.block_until_ready(run(many, many))
        ns[name] = 1e9 * (time.perf_counter() - start) / job["n"] ** 2
    np.savez(folder / "answer.npz", **answers)
    (folder / "ns.json").write_text(json.dumps(ns))


if __name__ == "__main__":
    main()
