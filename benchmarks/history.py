"""Rows of several measurements held against each other: by machine, case and commit."""

import json
import pathlib
from collections.abc import Iterable

from benchmarks.harness import OURS, REFERENCE
from benchmarks.rows import Row, against_reference


# What has to be the same for times to be compared, and for a run to be the same one.
MACHINE = ("processor", "cores", "platform", "device")
CASE = (*MACHINE, "topic", "case", "about", "tiny")
RUN = (*CASE, "run", "dtype", "job", "units")


def read(path: pathlib.Path) -> list[Row]:
    """The rows of a file, in the order in which they were measured."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def newest(rows: Iterable[Row]) -> list[Row]:
    """Our last row of each run, each with what it can be compared with.

    A row that was measured without the reference is held against the last one of that
    on the same machine, and says so by `reference_time`. `times_as_before` is how many
    times as fast the run is as on the last commit before its own.
    """
    rows = list(rows)
    last = {json.dumps(of(row, RUN)): row for row in rows}
    found = []
    for row in last.values():
        if row["library"] == OURS:
            found.append(row | with_reference(row, rows) | with_previous(row, rows))
    order = list(dict.fromkeys((row["topic"], row["case"]) for row in rows))
    return sorted(found, key=lambda row: order.index((row["topic"], row["case"])))


def with_reference(row: Row, rows: list[Row]) -> Row:
    """How the last measurement of the reference compares, if the row's own has none."""
    if not row["counts"] or "times_as_fast" in row:
        return {}
    theirs = [
        r for r in rows if r["library"] == REFERENCE and of(r, CASE) == of(row, CASE)
    ]
    if not theirs:
        return {}
    time = max(r["time"] for r in theirs)
    ratios = against_reference(row, [r for r in theirs if r["time"] == time])
    return ratios | {"reference_time": time}


def with_previous(row: Row, rows: list[Row]) -> Row:
    """How many times as fast the run is as on the commit before, if it is known."""
    same = [r for r in rows if of(r, RUN) == of(row, RUN)]
    earlier = [r for r in same if r["commit"] != row["commit"]]
    if not earlier:
        return {}
    before = earlier[-1]
    ratio = before["ns_per_unit"] / row["ns_per_unit"]
    return {"times_as_before": ratio, "previous_commit": before["commit"]}


def of(row: Row, fields: tuple[str, ...]) -> list:
    """Some fields of a row."""
    return [row[field] for field in fields]
