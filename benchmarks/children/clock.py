"""Does one job and times it in this process, for either library: it knows neither.

It runs on the reference's old JAX too, so it may use nothing newer.
"""

import importlib.metadata
import json
import pathlib
import resource
import sys
import time
import warnings
from collections.abc import Callable

import jax
import numpy as np


PATIENCE = 20.0  # seconds after which there are no more runs of one kind


def child(package: str, work: Callable) -> None:
    """Do `job.json` of the folder `sys.argv[1]`; leave `answer.npz`, `record.json`.

    `work(job, arrays)` gets the arrays of the case as NumPy has them and returns a
    dictionary of answers and a record of times.
    """
    warnings.simplefilter("ignore")
    folder = pathlib.Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    jax.config.update("jax_enable_x64", job["dtype"] == "float64")
    with np.load(job["inputs"]) as file:
        arrays = dict(file)
    imported_mib = peak_mib()
    answer, record = work(job, arrays)
    device = jax.devices()[0]
    record = {
        "peak_mib": peak_mib(),
        **record,
        "imported_mib": imported_mib,
        "device_peak_bytes": (device.memory_stats() or {}).get("peak_bytes_in_use"),
        "platform": device.platform,
        "device": device.device_kind,
        "versions": {name: version(name) for name in (package, "jax", "jaxlib")},
    }
    if job["rates"]:
        record |= rates(job["dtype"])
    np.savez(folder / "answer.npz", **answer)
    (folder / "record.json").write_text(json.dumps(record))


def timed(
    function: Callable,
    *arguments,
    repeats: int,
    at_least: float = 0.0,
    compiler_options: dict | None = None,
) -> tuple:
    """What a function returns, and a record of its compilation and of warm runs.

    There are `repeats` runs, or as many more as take `at_least` so many seconds.
    """
    restart_peak()  # how the inputs came here does not count
    arguments = jax.block_until_ready(jax.device_put(arguments))
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)  # tracing counts
    compiled = lowered.compile(compiler_options=compiler_options)
    record = {"compile_s": time.perf_counter() - start, "peak_mib": peak_mib()}
    if (memory := compiled.memory_analysis()) is not None:
        record["temporary_mib"] = memory.temp_size_in_bytes / 2**20
    at_rest = restart_peak()
    answer = jax.block_until_ready(compiled(*arguments))  # the warm-up, to be checked
    record["run_s"] = seconds(lambda: compiled(*arguments), repeats, at_least)
    if at_rest is not None:
        record["working_mib"] = peak_mib() - at_rest
    record["peak_mib"] = max(record["peak_mib"], peak_mib())
    return answer, record


def seconds(run: Callable, repeats: int, at_least: float = 0.0) -> list:
    """The time of each run; `repeats` only while that takes less than `PATIENCE`."""
    runs = []
    while len(runs) < repeats or sum(runs) < at_least:
        start = time.perf_counter()
        jax.block_until_ready(run())
        runs.append(time.perf_counter() - start)
        if sum(runs) > PATIENCE:
            break
    return runs


def rates(dtype: str) -> dict:
    """What this machine reaches at best, with all cores that JAX uses."""
    return {
        "matmul_gflop_per_s": matmul_rate(dtype),
        "copy_gb_per_s": copy_rate(dtype),
    }


def matmul_rate(dtype: str, n: int = 2048) -> float:
    """Matrix products, in 1e9 operations per second."""
    a = jax.numpy.ones((n, n), dtype)
    multiply = jax.jit(jax.numpy.dot)
    jax.block_until_ready(multiply(a, a))
    return 2e-9 * n**3 / min(seconds(lambda: multiply(a, a), 5, 1.5))


def copy_rate(dtype: str, mib: int = 256) -> float:
    """Reading and writing an array that no cache holds, in 1e9 bytes per second."""
    a = jax.numpy.ones(mib * 2**20 // np.dtype(dtype).itemsize, dtype)
    # In place: the first touch of fresh pages is the system's work, not the memory's.
    negate = jax.jit(jax.numpy.negative, donate_argnums=0)

    def run():
        nonlocal a
        a = negate(a)
        return a

    jax.block_until_ready(run())
    return 2e-9 * a.nbytes / min(seconds(run, 5, 0.5))


def peak_mib() -> float:
    """The largest memory that this process has had resident."""
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
    """The version of an installed package; a source tree that is not has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
