"""Time kernels on one core, on all cores, and on as many devices made of these.

A CPU with several cores is a mesh, too. What one call leaves idle of them, `eqt.gram`
over virtual devices may use; what each device does anew for its rows, it loses. Every
measurement is a process of its own, and they have to agree before times are printed.
"""

import argparse
import pathlib
import tempfile
from typing import Any

import numpy as np

from benchmarks.cases import kernels
from benchmarks.harness import OURS, Options, Run, process, relative_error
from benchmarks.machine import cores


LAYOUTS = ["one core", "all cores", "virtual devices"]
TOLERANCE = 1e-4  # of float32, between two divisions of the same work


def measured(name: str, layout: str, options: argparse.Namespace) -> dict[str, Any]:
    """The kernels of a workload by one layout, and milliseconds of the fastest run."""
    devices = cores() if layout == "virtual devices" else 1
    environment = {"JAX_NUM_CPU_DEVICES": str(devices)}
    if options.cache is not None:  # one core is not given what several would be
        folder = pathlib.Path(options.cache).absolute() / layout.replace(" ", "-")
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    case = kernels.cases(tiny=options.tiny)[name]
    job = next(iter(case.runs.values())).job
    n = job["n"] if options.n is None else options.n
    job = {**job, "n": n, "layout": layout}
    with tempfile.TemporaryDirectory() as place:
        inputs = f"{place}/inputs.npz"
        np.savez(inputs, **case.inputs())
        run = Run(OURS, "cores", job, environment=environment)
        record, answer = process(run, inputs, Options(None, options.repeats))
    return {"n": n, "answer": answer, "ms": 1e3 * min(record["run_s"])}


def main() -> None:
    """Print a line for each workload: milliseconds of the fastest run, by layout."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cores", description=__doc__
    )
    cases = kernels.cases(tiny=False)
    parser.add_argument("names", nargs="*", help=f"workloads: {', '.join(cases)}")
    parser.add_argument("--n", type=int, help="examples, at most those of the workload")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--cache", help="a folder of compiled programs, to be kept")
    options = parser.parse_args()
    if unknown := set(options.names) - set(cases):
        parser.error(f"unknown workloads {sorted(unknown)}.")
    print(f"{'':28} {'n':>5}", *(f"{layout:>16}" for layout in LAYOUTS))
    for name in options.names or cases:
        found = [measured(name, layout, options) for layout in LAYOUTS]
        for other in found[1:]:
            relative_error(other["answer"], found[0]["answer"], TOLERANCE)
        times = (f"{one['ms']:16.4g}" for one in found)
        print(f"{name:28} {found[0]['n']:5}", *times, flush=True)


if __name__ == "__main__":
    main()
