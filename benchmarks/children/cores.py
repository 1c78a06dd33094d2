"""Kernels by one division of their work over the cores of this machine."""

import os

import jax

import eqtangents as eqt
from benchmarks.children.clock import child
from benchmarks.children.kernels_eqtangents import sequential, timed_alone


def work(job, arrays):
    if job["layout"] == "one core":
        # Before JAX starts as many threads as there are cores.
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    net = sequential(job["network"])
    x1, x2 = (arrays[name][: job["n"]] for name in ("x1", "x2"))

    def kernel(x1, x2):
        if job["layout"] == "virtual devices":
            mesh = jax.make_mesh((jax.device_count(),), ("rows",))
            result = eqt.gram(net, x1, x2, kind="both", mesh=mesh)
        else:
            result = eqt.kernel(net, x1, x2)
        return {"nngp": result.nngp, "ntk": result.ntk}

    x2 = None if job["symmetric"] else x2
    return timed_alone(kernel, x1, x2, repeats=job["repeats"])


if __name__ == "__main__":
    child("eqtangents", work)
