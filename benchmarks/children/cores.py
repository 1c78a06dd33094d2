"""Kernels by one division of their work over the cores of this machine."""

import json
import os
import pathlib
import sys


folder = pathlib.Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
if job["layout"] == "one core":
    # Before JAX is imported, which starts as many threads as there are cores.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax  # noqa: E402
import numpy as np  # noqa: E402

import eqtangents as eqt  # noqa: E402
from benchmarks.children.clock import seconds  # noqa: E402
from benchmarks.children.kernels_eqtangents import sequential  # noqa: E402


def main() -> None:
    """Leave `answer.npz` and `record.json` in the folder of the job."""
    net = sequential(job["network"])
    with np.load(folder / "inputs.npz") as file:
        x1, x2 = (jax.device_put(file[name][: job["n"]]) for name in ("x1", "x2"))
    x2 = None if job["symmetric"] else x2
    if job["layout"] == "virtual devices":
        mesh = jax.make_mesh((jax.device_count(),), ("rows",))
        kernel = jax.jit(lambda a, b: eqt.gram(net, a, b, kind="both", mesh=mesh))
    else:
        kernel = jax.jit(lambda a, b: eqt.kernel(net, a, b))
    run = lambda: jax.block_until_ready(kernel(x1, x2))
    found = run()
    record = {"run_s": seconds(run, job["repeats"])}
    np.savez(folder / "answer.npz", nngp=found.nngp, ntk=found.ntk)
    (folder / "record.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
