"""Runs cases: each measurement is a process of its own, and the libraries take turns.

A fresh process has a cold compile and its own peak memory. Inputs are made once, and
all processes read them; answers are checked before anything is reported.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.floors import Work
from benchmarks.machine import ROOT


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
    least: Work | None = None  # what has to be done, to be held against the machine
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)  # and more


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
    deadline: float = float("inf")  # of all of them, by `time.monotonic`
    platform: str = "cpu"

    def seconds_left(self) -> float | None:
        """How long a process that starts now may take."""
        left = min(self.timeout or float("inf"), self.deadline - time.monotonic())
        return None if left == float("inf") else max(left, 0.0)


def run(case: Case, options: Options) -> tuple[dict[str, list[dict]], Figures]:
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
            answers = {}
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
            require_finite(answers)
            figures = case.check(answers)
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
    env |= run.environment
    python = options.reference_python
    if run.library == OURS:
        env["PYTHONPATH"], python = str(ROOT / "src"), sys.executable
    job = {**run.job, "inputs": inputs, "dtype": run.dtype, "repeats": options.repeats}
    job["rates"] = run.least is not None
    limit = options.seconds_left()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "job.json").write_text(json.dumps(job))
        command = [str(python), "-m", f"benchmarks.children.{run.child}", name]
        try:
            # Captured, because TensorFlow chatters on stderr.
            done = subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True,
                check=False, timeout=limit,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failed(f"{run.child} took over {limit:.0f} s.") from None
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
