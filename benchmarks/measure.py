"""Times one kernel in this process, for either library: it knows neither.

It runs on the reference's old JAX too, so it may use nothing newer.
"""

import importlib.metadata
import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable

import jax
import numpy as np


def main(package: str, build: Callable, prepare: Callable = lambda x: x) -> None:
    """Do `job.json` of the folder `sys.argv[1]`; leave `answer.npz`, `record.json`.

    `build(network)` gives a function of `(x1, x2)` that returns `(nngp, ntk)`;
    `prepare` brings channels-first inputs into the layout it wants.
    """
    folder = pathlib.Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())

    def load(path: str | None):
        if path is None:
            return None
        return jax.device_put(np.ascontiguousarray(prepare(np.load(path)[: job["n"]])))

    x1, x2 = (load(path) for path in job["inputs"])
    kernel = build(job["network"])
    device = jax.devices()[0]
    imported_mib = peak_mib()

    start = time.perf_counter()
    compiled = jax.jit(kernel).lower(x1, x2).compile()  # tracing and lowering count
    compile_s = time.perf_counter() - start

    # Warm-up, and the answer to check.
    nngp, ntk = jax.block_until_ready(compiled(x1, x2))
    runs = []
    for _ in range(job["repeats"]):
        start = time.perf_counter()
        jax.block_until_ready(compiled(x1, x2))
        runs.append(time.perf_counter() - start)
    record = {
        "compile_s": compile_s,
        "run_s": runs,
        "peak_mib": peak_mib(),
        "imported_mib": imported_mib,
        "device_peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "dtype": str(ntk.dtype),
        "platform": device.platform,
        "device": device.device_kind,
        "versions": {name: version(name) for name in (package, "jax", "jaxlib")},
    }
    np.savez(folder / "answer.npz", nngp=nngp, ntk=ntk)
    (folder / "record.json").write_text(json.dumps(record))


def peak_mib() -> float:
    # `ru_maxrss` starts from the peak of the parent process on Linux; this does not.
    if (peak := _status_mib("VmHWM")) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def restart_peak() -> float | None:
    """Let the peak start from the memory in use now, in MiB; Linux alone can."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status_mib("VmRSS")


def _status_mib(field: str) -> float | None:
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 2**10
    return None


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a source tree, not installed
        return None
