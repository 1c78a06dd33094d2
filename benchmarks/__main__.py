"""Time eqtangents, beside Neural Tangents on the same inputs, and compare answers."""

import argparse
import datetime
import os
import pathlib
import sys

from benchmarks import harness
from benchmarks.cases import TOPICS
from benchmarks.harness import ROOT
from benchmarks.reference_env import reference_python


def main() -> int:
    """Run what the command line asks for; the number of failures is the exit status."""
    options, arguments = parse()
    chosen = select(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    with arguments.out.open("a") as log:
        for topic, name in chosen:
            case = TOPICS[topic].cases(tiny=arguments.tiny)[name]
            print(f"{name}: {case.about}", flush=True)
            about = {"topic": topic, "case": name, "tiny": arguments.tiny}
            about |= harness.machine()
            try:
                records, figures = harness.run(case, about, options, log)
                print(harness.table(case, records, figures), flush=True)
            except harness.Failed as failure:
                failures.append(name)
                print(f"  FAILED: {failure}", flush=True)
    print(f"Failed: {', '.join(failures)}" if failures else "No failures.")
    return len(failures)


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
    """The cases asked for by name or by topic, all, or those of a smoke run."""
    cases = every_case()
    if arguments.smoke and not arguments.names:
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add(
        "names", nargs="*", metavar="NAME", help="cases, or topics with all their cases"
    )
    add("--list", action="store_true", help="print the names")
    add("--all", action="store_true", help="all cases: hours")
    add("--smoke", action="store_true", help="tiny, eqtangents alone, one run each")
    add("--tiny", action="store_true", help="sizes that only show that both agree")
    add("--repeats", type=int, default=3, help="timed runs in a process (default: 3)")
    add("--rounds", type=int, default=2, help="processes of each run (default: 2)")
    add("--timeout", type=float, help="seconds for each process")
    add("--platform", default="cpu", help="JAX platform of both (default: cpu)")
    add("--reference-python", metavar="PATH", help="a Python with neural-tangents")
    add("--no-reference", action="store_true", help="time eqtangents alone")
    add("--out", type=pathlib.Path, help="JSON lines (default: results/TIME.jsonl)")
    found = parser.parse_args()
    known = {name for case in every_case() for name in case}
    if unknown := set(found.names) - known:
        parser.error(f"unknown names {sorted(unknown)}; `--list` shows all.")
    if found.list or not (found.names or found.all or found.smoke):
        show()
        sys.exit()
    if found.smoke:
        found.tiny = found.no_reference = True
        found.rounds = found.repeats = 1
        found.out = found.out or pathlib.Path(os.devnull)
    python = found.reference_python
    if found.no_reference:
        python = None
    elif python is None:
        python = reference_python()
    if found.out is None:
        now = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}"
        found.out = ROOT / "benchmarks" / "results" / f"{now}.jsonl"
    options = harness.Options(
        python, found.repeats, found.rounds, found.timeout, found.platform
    )
    return options, found


if __name__ == "__main__":
    sys.exit(main())
