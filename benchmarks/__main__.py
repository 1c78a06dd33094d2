"""Time eqtangents and Neural Tangents on the same inputs, and check that they agree.

Each measurement is a process of its own (a cold compile, its own peak memory), and the
libraries take turns.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from typing import TextIO

import numpy as np

from benchmarks import table
from benchmarks.reference_env import reference_python
from benchmarks.workloads import DISTINCT, Workload, workloads


ROOT = pathlib.Path(__file__).parents[1]
TOLERANCE = 1e-3  # of float32: norm of the difference over norm of the reference

Answer = dict[str, np.ndarray]  # nngp and ntk


class Failed(Exception):
    """A measurement that crashed, a wrong answer, or too much memory."""


def main() -> int:
    options = parse(list(workloads(tiny=False)))
    chosen = workloads(tiny=options.tiny)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    print(table.line(*table.COLUMNS), flush=True)
    with options.out.open("a") as log:
        for name in options.workloads or chosen:
            workload = chosen[name]
            try:
                records = run(name, workload, options, log)
                print(table.row(name, workload, **records), flush=True)
                check_memory(workload, records["eqtangents"])
            except Failed as failure:
                failures.append(name)
                print(f"{name} FAILED: {failure}", flush=True)
    print(f"\n{table.LEGEND}\n")
    print(f"Failed: {', '.join(failures)}" if failures else "No failures.")
    return bool(failures)


def run(name: str, workload: Workload, options: argparse.Namespace, log: TextIO):
    """All rounds of one workload, a JSON line each: the records of each library."""
    sizes = {"eqtangents": workload.n}
    if options.reference_python is not None and workload.reference_n != 0:
        sizes["reference"] = workload.reference_n or workload.n
    records: dict[str, list[dict]] = {"eqtangents": [], "reference": []}
    about = {"workload": name, "tiny": options.tiny, "network": workload.about}
    about |= {"shape": workload.shape, "symmetric": workload.symmetric} | machine()
    with tempfile.TemporaryDirectory() as folder:
        inputs = save(workload, folder)
        for round_ in range(options.rounds):
            answers, measured = {}, {}
            for library, n in sizes.items():
                progress = f"{name}: round {round_ + 1}, {library}, n={n}"
                print(progress, file=sys.stderr, flush=True)
                job = {"inputs": inputs, "n": n, "repeats": options.repeats}
                job["network"] = workload.network
                measured[library], answers[library] = measure(library, job, options)
            error = check(**answers, symmetric=workload.symmetric)
            for library, n in sizes.items():
                record = about | {"library": library, "n": n, "round": round_}
                record |= measured[library] | {"relative_error": error}
                records[library].append(record)
                log.write(json.dumps(record | table.summary([record])) + "\n")
                log.flush()
    return records


def save(workload: Workload, folder: str) -> list[str | None]:
    """The inputs as files that both libraries read."""
    paths = []
    for i, x in enumerate(workload.inputs(), 1):
        paths.append(None if x is None else f"{folder}/x{i}.npy")
        if x is not None:
            np.save(paths[-1], x)
    return paths


def measure(
    library: str, job: dict, options: argparse.Namespace
) -> tuple[dict, Answer]:
    """Do `job` once, in a fresh process."""
    # Flags or a compilation cache of the caller's could favour one of the libraries.
    prefixes = ("JAX_", "XLA_", "PYTHONPATH")
    env = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    env |= {"JAX_PLATFORMS": options.platform, "TF_CPP_MIN_LOG_LEVEL": "3"}
    python = options.reference_python
    if library == "eqtangents":
        env["PYTHONPATH"] = str(ROOT / "src")
        python = sys.executable
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "job.json").write_text(json.dumps(job))
        command = [python, "-m", f"benchmarks.run_{library}", folder]
        # Captured, because TensorFlow chatters on stderr.
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = done.stderr[-3000:]
            raise Failed(f"{library} exited with {done.returncode}.\n{last}")
        with np.load(folder / "answer.npz") as answer:
            return json.loads((folder / "record.json").read_text()), dict(answer)


def check(
    eqtangents: Answer, reference: Answer | None = None, *, symmetric: bool
) -> float | None:
    """Worst relative error where both computed; without reference, sanity alone."""
    errors = []
    for name, value in eqtangents.items():
        if not np.isfinite(value).all():
            raise Failed(f"wrong answer: {name} is not finite.")
        truth = value.T if symmetric else value
        if reference is not None:
            truth = reference[name]
            value = value[: truth.shape[0], : truth.shape[1]]
        errors.append(float(np.linalg.norm(value - truth) / np.linalg.norm(truth)))
        if not errors[-1] <= TOLERANCE:
            raise Failed(
                f"wrong answer: {name} is off by {errors[-1]:.1e}, relative; "
                f"{TOLERANCE:.0e} is allowed."
            )
    return None if reference is None else max(errors)


def check_memory(workload: Workload, records: list[dict]) -> None:
    peak, limit = table.summary(records)["peak_mib"], workload.memory_limit_mib
    if limit is not None and peak > limit:
        raise Failed(f"eqtangents took {peak:.0f} MiB; {limit:.0f} are allowed.")


def machine() -> dict:
    """Where and on which commit this runs."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or None,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def parse(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(names)}")
    add("--smoke", action="store_true", help="tiny, eqtangents alone, one run each")
    add("--tiny", action="store_true", help="sizes that only show that both agree")
    add("--repeats", type=int, default=3, help="timed runs in a process (default: 3)")
    add("--rounds", type=int, default=2, help="processes of each library (default: 2)")
    add("--platform", default="cpu", help="JAX platform of both (default: cpu)")
    add("--reference-python", metavar="PATH", help="a Python with neural-tangents")
    add("--no-reference", action="store_true", help="time eqtangents alone")
    add("--out", type=pathlib.Path, help="JSON lines (default: results/TIME.jsonl)")
    options = parser.parse_args()
    for name in set(options.workloads) - set(names):
        parser.error(f"unknown workload {name!r}; there are {', '.join(names)}.")
    if options.smoke:
        options.tiny = options.no_reference = True
        options.rounds = options.repeats = 1
        options.workloads = options.workloads or DISTINCT
        options.out = options.out or pathlib.Path(os.devnull)
    if options.no_reference:
        options.reference_python = None
    elif options.reference_python is None:
        options.reference_python = reference_python()
    if options.out is None:
        now = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}"
        options.out = ROOT / "benchmarks" / "results" / f"{now}.jsonl"
    return options


if __name__ == "__main__":
    sys.exit(main())
