"""The reference's part of `benchmarks.precision`, in the reference's own Python.

It runs on the reference's old JAX: nothing of eqtangents may be imported here.
"""

import json
import pathlib
import sys
import warnings

import jax
import numpy as np

from benchmarks.run_reference import serial


def main() -> None:
    warnings.simplefilter("ignore")
    folder, dtype = pathlib.Path(sys.argv[1]), sys.argv[2]
    jax.config.update("jax_enable_x64", dtype == "float64")
    inputs = np.load(folder / "inputs.npz")
    answers = {}
    for name, job in json.loads((folder / "jobs.json").read_text()).items():
        x = inputs[name].astype(dtype)
        x = np.moveaxis(x, 1, -1) if x.ndim > 2 else x
        _, _, kernel_fn = serial(job["first"])
        kernel = kernel_fn(x, None)
        if job["depth"]:
            # Layer by layer: a network of 10,000 is not to be compiled as one.
            _, _, block = serial(job["block"])
            step = jax.jit(block)
            for _ in range(job["depth"]):
                kernel = step(kernel)
        answers[name] = np.stack([np.asarray(kernel.nngp), np.asarray(kernel.ntk)])
        assert answers[name].dtype == dtype
    np.savez(folder / "answer.npz", **answers)


if __name__ == "__main__":
    main()
