"""Time eqtangents, beside Neural Tangents on the same inputs, and compare answers."""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from typing import TextIO

from benchmarks import harness
from benchmarks.cases import TOPICS
from benchmarks.machine import ROOT, machine, machine_name
from benchmarks.reference_env import reference_python
from benchmarks.rows import rows_of, table


RESULTS = ROOT / "benchmarks" / "results"
# Of all cases, unless `--minutes` says otherwise.
MINUTES, QUICK_MINUTES = 240.0, 20.0


def main() -> int:
    """Run what the command line asks for; the number of failures is the exit status."""
    options, arguments = parse()
    chosen = select(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    with arguments.out.open("a") as log:
        for topic, name in chosen:
            if time.monotonic() > options.deadline:
                failures.append(f"{name} (not reached)")
            elif not measure(topic, name, options, arguments.tiny, log):
                failures.append(name)
    print(f"Rows are in {arguments.out}.")
    if arguments.all:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.page", arguments.out],
            cwd=ROOT,
            check=True,
        )
    print(f"Failed: {', '.join(failures)}." if failures else "No failures.")
    return len(failures)


def measure(
    topic: str, name: str, options: harness.Options, tiny: bool, log: TextIO
) -> bool:
    """Run a case, print what came out and log its rows; whether it succeeded."""
    case = TOPICS[topic].cases(tiny=tiny)[name]
    print(f"{name}: {case.about}", flush=True)
    about = {"topic": topic, "case": name, "tiny": tiny, **machine(options.platform)}
    try:
        records, figures = harness.run(case, options)
    except harness.Failed as failure:
        print(f"  FAILED: {failure}", flush=True)
        return False
    rows = rows_of(case, records, figures, about)
    log.writelines(json.dumps(row) + "\n" for row in rows)
    log.flush()
    print(table(rows), flush=True)
    return True


def every_case() -> list[tuple[str, str]]:
    """Topic and name of each case."""
    found = [
        (topic, name)
        for topic, module in TOPICS.items()
        for name in module.cases(tiny=False)
    ]
    names = {name for _, name in found}
    assert len(names) == len(found), "two cases have one name"
    assert all(names.issuperset(module.SMOKE) for module in TOPICS.values())
    return found


def select(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """The cases asked for by name or by topic, or all: of each kind one if quick."""
    cases = every_case()
    if arguments.all and arguments.quick:
        return [c for c in cases if c[1] in TOPICS[c[0]].SMOKE]
    return [c for c in cases if arguments.all or {*c} & {*arguments.names}]


def show() -> None:
    """Print all cases by topic."""
    for topic, module in TOPICS.items():
        print(f"{topic}: {module.__doc__.splitlines()[0]}")
        for name, case in module.cases(tiny=False).items():
            print(f"    {name:28} {case.about}")


def parse() -> tuple[harness.Options, argparse.Namespace]:
    """Options of the harness, and what to run."""
    parser = parser_of_options()
    found = parser.parse_args()
    known = {name for case in every_case() for name in case}
    if unknown := set(found.names) - known:
        parser.error(f"unknown names {sorted(unknown)}; `--list` shows all.")
    if found.list or not (found.names or found.all):
        show()
        sys.exit()
    if found.all and importlib.util.find_spec("matplotlib") is None:
        parser.error("the page of `--all` is drawn by matplotlib: install it first.")
    if found.quick:
        found.tiny = found.no_reference = True
        found.rounds = found.repeats = 1
    if found.out is None:
        folder = RESULTS / "quick" if found.quick else RESULTS
        found.out = folder / f"{machine_name(found.platform)}.jsonl"
    if found.all and found.minutes is None:
        found.minutes = QUICK_MINUTES if found.quick else MINUTES
    if found.minutes is not None:
        print(f"This takes at most {found.minutes:g} minutes (`--minutes`).")
    options = harness.Options(
        reference_python=python_of_reference(found),
        repeats=found.repeats,
        rounds=found.rounds,
        timeout=found.timeout,
        deadline=time.monotonic() + 60 * (found.minutes or float("inf")),
        platform=found.platform,
    )
    return options, found


def parser_of_options() -> argparse.ArgumentParser:
    """What the command line can say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add(
        "names", nargs="*", metavar="NAME", help="cases, or topics with all their cases"
    )
    add("--list", action="store_true", help="print the names")
    add("--all", action="store_true", help="all cases, and a page of plots: hours")
    add("--quick", action="store_true", help="tiny, eqtangents alone, one run each")
    add("--tiny", action="store_true", help="sizes that only show that both agree")
    add("--repeats", type=int, default=3, help="timed runs in a process (default: 3)")
    add("--rounds", type=int, default=2, help="processes of each run (default: 2)")
    add("--timeout", type=float, default=900.0, help="seconds for each process")
    add("--minutes", type=float, help="for everything; cases left then are named")
    add("--platform", default="cpu", help="JAX platform of both (default: cpu)")
    add("--reference-python", metavar="PATH", help="a Python with neural-tangents")
    add("--no-reference", action="store_true", help="time eqtangents alone")
    add("--out", type=pathlib.Path, help="JSON lines (default: results/MACHINE.jsonl)")
    return parser


def python_of_reference(arguments: argparse.Namespace) -> str | pathlib.Path | None:
    """Python with Neural Tangents, if it is asked for and can be had."""
    if arguments.no_reference or arguments.reference_python is not None:
        return None if arguments.no_reference else arguments.reference_python
    try:
        return reference_python()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        if not arguments.all:
            raise
        print(f"Without the reference: {error}")
        return None


if __name__ == "__main__":
    sys.exit(main())
