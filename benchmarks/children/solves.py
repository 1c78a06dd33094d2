"""Does one solve again and again in this process, for any library: it knows none.

It runs beside libraries that have no JAX, so it may use nothing but NumPy.
"""

import importlib.metadata
import json
import pathlib
import resource
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np


def child(package: str, solve: Callable) -> None:
    """Do `job.json` of the folder `sys.argv[1]`; leave `answer.npy`, `record.json`.

    `solve(job, x, y, x_new)` returns the predictions for the new rows. The first of its
    runs compiles what is to be compiled.
    """
    warnings.simplefilter("ignore")
    folder = pathlib.Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "table.npz") as file:
        table = {name: file[name].astype(job["dtype"]) for name in ("x", "y", "x_new")}
    imported, seconds, of_processor = peak_mib(), [], []
    for _ in range(job["runs"]):
        start, busy = time.perf_counter(), time.process_time()
        answer = np.asarray(solve(job, **table))
        seconds.append(round(time.perf_counter() - start, 2))
        of_processor.append(round(time.process_time() - busy, 2))
    np.save(folder / "answer.npy", answer)
    record = {
        "version": importlib.metadata.version(package),
        "seconds": seconds,
        "processor seconds": of_processor,
        "imported MiB": imported,
        "peak MiB": peak_mib(),
    }
    (folder / "record.json").write_text(json.dumps(record))


def peak_mib() -> int:
    """The largest memory that this process has had resident."""
    status = pathlib.Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM:"):  # not inherited from the parent, as `ru_maxrss`
            return int(line.split()[1]) // 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
