"""Runs cases: each measurement is a process of its own, and the libraries take turns.

A fresh process has a cold compile and its own peak memory. Inputs are made once, and
all processes read them; answers are checked before anything is reported. Each process
leaves one line of JSON: the job, the device, versions and commit, and the figures.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import numpy as np


ROOT = pathlib.Path(__file__).parents[1]
OURS, REFERENCE = "eqtangents", "reference"

Answer = dict[str, np.ndarray]
Figures = dict[str, float | None]  # errors and the like, by name


class Failed(Exception):
    """A measurement that crashed, a wrong answer, or too much memory."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What one process does: a job, as JSON, in a module of `benchmarks.children`."""

    library: str  # `OURS` or `REFERENCE`
    child: str
    job: Mapping[str, Any]
    dtype: str = "float32"
    units: int = 1  # of work, entries of a kernel, say: runs are compared by unit
    may_fail: bool = False  # one of several ways, which may take too long or too much


@dataclasses.dataclass(frozen=True)
class Case:
    """Several ways to one answer. The first run of ours is the one that counts."""

    about: str
    inputs: Callable[[], dict[str, np.ndarray]]
    runs: Mapping[str, Run]
    # Of all answers there are, by run: figures to report; raises `Failed`.
    check: Callable[[dict[str, Answer]], Figures]
    unit: str = "run"
    memory_limit_mib: float | None = None  # for ours


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run a case."""

    reference_python: str | pathlib.Path | None
    repeats: int = 3  # timed runs in a process
    rounds: int = 2  # processes of each run
    timeout: float | None = None  # seconds for a process
    platform: str = "cpu"


def run(
    case: Case, about: dict[str, Any], options: Options, log: TextIO
) -> tuple[dict[str, list[dict]], Figures]:
    """All rounds of a case: records by run, and the worst figures."""
    chosen = {
        name: run
        for name, run in case.runs.items()
        if run.library == OURS or options.reference_python is not None
    }
    records: dict[str, list[dict]] = {name: [] for name in chosen}
    worst: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = f"{folder}/inputs.npz"
        np.savez(inputs, **case.inputs())
        for round_ in range(options.rounds):
            lines, answers = [], {}
            for name, one in chosen.items():
                print(f"  round {round_ + 1}, {name}", file=sys.stderr, flush=True)
                try:
                    measured, answers[name] = process(one, inputs, options)
                except Failed as failure:
                    if not one.may_fail:
                        raise
                    print(f"  {name}: {failure}", file=sys.stderr, flush=True)
                    continue
                records[name].append(measured)
                line = about | {"about": case.about, "run": name, "round": round_}
                line |= {"library": one.library, "dtype": one.dtype, "job": one.job}
                lines.append(line | measured | summary([measured], one))
            require_finite(answers)
            figures = case.check(answers)
            for line in lines:
                log.write(json.dumps(line | figures) + "\n")
            log.flush()
            worst = {k: larger(v, worst.get(k)) for k, v in figures.items()}
    first = next(records[name] for name in chosen)
    check_memory(first, case.memory_limit_mib)
    return {name: found for name, found in records.items() if found}, worst


def process(run: Run, inputs: str, options: Options) -> tuple[dict, Answer]:
    """Do a job once, in a fresh process."""
    # Flags or a compilation cache of the caller's could favour one of the libraries.
    prefixes = ("JAX_", "XLA_", "PYTHONPATH")
    env = {k: v for k, v in os.environ.items() if not k.startswith(prefixes)}
    env |= {"JAX_PLATFORMS": options.platform, "TF_CPP_MIN_LOG_LEVEL": "3"}
    python = options.reference_python
    if run.library == OURS:
        env["PYTHONPATH"], python = str(ROOT / "src"), sys.executable
    job = {**run.job, "inputs": inputs, "dtype": run.dtype, "repeats": options.repeats}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "job.json").write_text(json.dumps(job))
        command = [str(python), "-m", f"benchmarks.children.{run.child}", name]
        try:
            # Captured, because TensorFlow chatters on stderr.
            done = subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True,
                check=False, timeout=options.timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failed(f"{run.child} took over {options.timeout:.0f} s.") from None
        if done.returncode != 0:
            last = done.stderr[-3000:]
            raise Failed(f"{run.child} exited with {done.returncode}.\n{last}")
        with np.load(folder / "answer.npz") as answer:
            return json.loads((folder / "record.json").read_text()), dict(answer)


# ------------------------------------------------------------------------------------
# Checks, for the cases to use.
# ------------------------------------------------------------------------------------


def require_finite(answers: dict[str, Answer]) -> None:
    """Raise `Failed` where an answer has a number that is not finite."""
    for run, answer in answers.items():
        for name, value in answer.items():
            if not np.isfinite(value).all():
                raise Failed(f"wrong answer: {name} of {run} is not finite.")


def relative_error(answer: Answer, truth: Answer, tolerance: float) -> float:
    """The worst norm of a difference over the norm of the truth, within tolerance."""
    errors = {
        name: float(np.linalg.norm(answer[name] - true) / np.linalg.norm(true))
        for name, true in truth.items()
    }
    for name, error in errors.items():
        if not error <= tolerance:
            raise Failed(
                f"wrong answer: {name} is off by {error:.1e}, relative; "
                f"{tolerance:.0e} is allowed."
            )
    return max(errors.values())


def check_memory(records: list[dict], limit: float | None) -> None:
    """Raise `Failed` where more memory was used than is allowed, in MiB."""
    peak = max(record["peak_mib"] for record in records)
    if limit is not None and peak > limit:
        raise Failed(f"eqtangents took {peak:.0f} MiB; {limit:.0f} are allowed.")


def larger(a: float | None, b: float | None) -> float | None:
    """The larger figure of those there are."""
    return max((x for x in (a, b) if x is not None), default=None)


# ------------------------------------------------------------------------------------
# Figures.
# ------------------------------------------------------------------------------------


def summary(records: list[dict], run: Run) -> dict[str, float]:
    """What one run needed, over all its processes."""
    runs = [seconds for record in records for seconds in record["run_s"]]
    return {
        "compile_s_median": statistics.median(r["compile_s"] for r in records),
        "run_s_median": statistics.median(runs),
        "run_s_min": min(runs),
        "run_s_max": max(runs),
        "ns_per_unit": 1e9 * statistics.median(runs) / run.units,
        "peak_mib": max(record["peak_mib"] for record in records),
    }


def table(case: Case, records: dict[str, list[dict]], figures: Figures) -> str:
    """A line for each run, the ratio of the libraries, and the figures."""
    summaries = {
        name: summary(found, case.runs[name]) for name, found in records.items()
    }
    lines = [
        f"  {name:28} {s['run_s_median']:9.3g} s "
        f"({s['run_s_min']:.3g} to {s['run_s_max']:.3g}), "
        f"{s['ns_per_unit'] / 1e6:9.3g} ms/{case.unit}, "
        f"compiled in {s['compile_s_median']:6.3g} s, {s['peak_mib']:5.0f} MiB"
        for name, s in summaries.items()
    ]
    verdict = [f"{name}: {v:.3g}" for name, v in figures.items() if v is not None]
    if (ratio := times_as_fast(case, summaries)) is not None:
        verdict.insert(0, f"{ratio:.3g} times as fast as the reference")
    return "\n".join([*lines, *(f"  {line}" for line in verdict)])


def times_as_fast(case: Case, summaries: dict[str, dict]) -> float | None:
    """How many times as fast our first run is as the fastest of the reference."""
    of = lambda library: [
        s["ns_per_unit"]
        for name, s in summaries.items()
        if case.runs[name].library == library
    ]
    ours, theirs = of(OURS), of(REFERENCE)
    return min(theirs) / ours[0] if theirs else None


def machine() -> dict[str, Any]:
    """Where, when and on which commit this runs."""
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
