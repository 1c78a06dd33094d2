"""Tangent kernels of finite networks beside Neural Tangents.

`python -m benchmarks.empirical` prints a table: our choice and our three ways, and the
three of Neural Tangents. Each is a process of its own; answers are compared.
"""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np

from benchmarks.empirical_networks import TINY, WORKLOADS
from benchmarks.reference_env import reference_python


ROOT = pathlib.Path(__file__).parents[1]
WAYS = ["structured", "jacobian", "vector_products"]
TOLERANCE = 1e-3


def measure(python, library, way, name, options, folder):
    """Best run in seconds, peak in MiB; `None` where it failed or took too long."""
    prefixes = ("JAX_", "XLA_", "PYTHONPATH")
    env = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    env |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if library == "eqtangents":
        env["PYTHONPATH"] = str(ROOT / "src")
    arguments = [
        library,
        way,
        name,
        str(int(options.tiny)),
        str(options.repeats),
        folder,
    ]
    command = [python, "-m", "benchmarks.run_empirical", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True,
            check=False, timeout=options.timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        print(f"{library} {way} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads((pathlib.Path(folder) / f"{library}-{way}.json").read_text())


def row(name, options):
    with tempfile.TemporaryDirectory() as folder:
        ours = {
            way: measure(sys.executable, "eqtangents", way, name, options, folder)
            for way in ["auto", *WAYS]
        }
        theirs = {}
        if options.reference_python is not None:
            theirs = {
                way: measure(
                    options.reference_python, "reference", way, name, options, folder
                )
                for way in WAYS
            }
        answers = [np.load(path) for path in sorted(pathlib.Path(folder).glob("*.npy"))]
    error = max(
        float(np.linalg.norm(a - answers[0]) / np.linalg.norm(answers[0]))
        for a in answers
    )
    best = lambda records: min(
        (min(r["run_s"]) for r in records if r is not None), default=math.nan
    )
    auto = ours.pop("auto")
    fastest = min(
        (r for r in theirs.values() if r is not None),
        key=lambda r: min(r["run_s"]),
        default={},
    )
    both = lambda field: [r.get(field) for r in (auto, fastest)]
    return {
        "workload": name,
        "auto_s": best([auto]),
        "ours_s": {way: best([r]) for way, r in ours.items()},
        "theirs_s": {way: best([r]) for way, r in theirs.items()},
        "ratio": best(theirs.values()) / best([auto]),
        "auto_over_best": best([auto]) / best(ours.values()),
        # Of the fastest way of each; `working` is what running adds to what is there.
        "peak_mib": both("peak_mib"),
        "working_mib": both("working_mib"),
        "gflop_per_s": auto["gflop"] / best([auto]),
        "matmul_gflop_per_s": auto["matmul_gflop_per_s"],
        "compile_s": [
            r["compile_s"] for r in (auto, *theirs.values()) if r is not None
        ],
        "error": error,
        "jax": [auto["jax"], *{r["jax"] for r in theirs.values() if r is not None}],
        "dtype": "float32",
    }


def pair(values):
    return "/".join("-" if v is None else f"{v:.0f}" for v in values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("workloads", nargs="*")
    add("--tiny", action="store_true", help="sizes that only show that all agree")
    add("--smoke", action="store_true", help="tiny, eqtangents alone")
    add("--repeats", type=int, default=5)
    add("--timeout", type=float, default=300.0, help="seconds for each process")
    add("--reference-python", metavar="PATH")
    add("--no-reference", action="store_true")
    add("--out", type=pathlib.Path, help="append JSON lines")
    options = parser.parse_args()
    options.tiny |= options.smoke
    if options.no_reference or options.smoke:
        options.reference_python = None
    elif options.reference_python is None:
        options.reference_python = reference_python()
    ratios, failed = [], False
    for name in options.workloads or (TINY if options.tiny else WORKLOADS):
        record = row(name, options)
        ratios.append(record["ratio"])
        failed |= not record["error"] <= TOLERANCE
        if options.out is not None:
            with options.out.open("a") as log:
                log.write(json.dumps(record) + "\n")
        show = lambda times: " ".join(f"{t:9.3g}" for t in times.values())
        print(
            f"{name:14} auto {record['auto_s']:9.3g} | {show(record['ours_s'])} | "
            f"{show(record['theirs_s'])} | {record['ratio']:5.2f} times faster, "
            f"auto/best {record['auto_over_best']:4.2f}, "
            f"MiB {pair(record['peak_mib'])}, working {pair(record['working_mib'])}, "
            f"{record['gflop_per_s']:.0f} of {record['matmul_gflop_per_s']:.0f} GFLOP/s"
            f", error {record['error']:.0e}",
            flush=True,
        )
    print(f"geometric mean {statistics.geometric_mean(ratios):.2f}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
