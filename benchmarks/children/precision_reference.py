"""Kernels of deep networks by Neural Tangents, in one precision."""

import jax
import numpy as np

from benchmarks.children.clock import child, seconds
from benchmarks.children.kernels_reference import serial


def work(job, arrays):
    x = arrays["x"].astype(job["dtype"])
    x = np.moveaxis(x, 1, -1) if x.ndim > 2 else x
    _, _, first = serial(job["first"])
    # Layer by layer: a network of 10,000 is not to be compiled as one.
    step = jax.jit(serial(job["block"])[2]) if job["depth"] else None

    def run():
        kernel = first(x, None)
        for _ in range(job["depth"]):
            kernel = step(kernel)
        return {"nngp": kernel.nngp, "ntk": kernel.ntk}

    answer = jax.block_until_ready(run())
    assert answer["ntk"].dtype == job["dtype"]
    return answer, {"compile_s": 0.0, "run_s": seconds(run, 1)}


if __name__ == "__main__":
    child("neural-tangents", work)
