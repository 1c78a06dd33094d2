"""What is kept of a case: a row for each of its runs, a line of JSON each.

Times are compared by the shortest run, by unit of work: what else the machine does can
only add to it. A ratio is ours over something else, or how many times as fast we are.
"""

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.floors import Work, least_seconds
from benchmarks.harness import OURS, REFERENCE, Case, Figures, Run
from benchmarks.machine import version


Row = dict[str, Any]


def rows_of(
    case: Case,
    records: Mapping[str, list[dict]],
    figures: Figures,
    about: Mapping[str, Any],
) -> list[Row]:
    """A row for each run that was made, ours first with what it is compared with."""
    rows = {
        name: dict(about)
        | {"about": case.about, "unit": case.unit, "run": name}
        | row_of(case.runs[name], found)
        for name, found in records.items()
    }
    for name, row in rows.items():
        single = next((r for r in rows.values() if _is_double_of(row, r)), None)
        if single is not None:
            row["over_float32"] = row["ns_per_unit"] / single["ns_per_unit"]
        row["figures"] = figures if name == next(iter(rows)) else {}
    first = next(row for row in rows.values() if row["library"] == OURS)
    theirs = [row for row in rows.values() if row["library"] == REFERENCE]
    first |= against_reference(first, theirs)
    for row in rows.values():
        row["counts"] = row is first
    return list(rows.values())


def row_of(run: Run, records: list[dict]) -> Row:
    """What one run needed, over all its processes."""
    last = records[-1]
    runs = [seconds for record in records for seconds in record["run_s"]]
    row: Row = {"library": run.library, "dtype": run.dtype, "job": run.job}
    row |= {"units": run.units, "device": last["device"], "versions": last["versions"]}
    if run.library == OURS:
        row["versions"] = row["versions"] | {OURS: version()}
    row |= {
        "compile_s": min(record["compile_s"] for record in records),
        "run_s_min": min(runs),
        "run_s_median": statistics.median(runs),
        "run_s_max": max(runs),
        "runs": len(runs),
        "ns_per_unit": 1e9 * min(runs) / run.units,
    }
    for field in ("peak_mib", "working_mib", "temporary_mib", "device_peak_bytes"):
        if any(record.get(field) is not None for record in records):
            row[field] = max(r[field] for r in records if r.get(field) is not None)
    if "forward" in last:
        forward = [record["forward"] for record in records]
        row["forward_s_min"] = min(min(record["run_s"]) for record in forward)
        row["forward_compile_s"] = min(record["compile_s"] for record in forward)
        row["over_forward"] = row["run_s_min"] / row["forward_s_min"]
    # What a library counts itself comes with its record.
    least = Work(**last["least"]) if "least" in last else run.least
    if least is not None and "copy_gb_per_s" in last:
        names = ("matmul_gflop_per_s", "copy_gb_per_s")
        row |= {name: max(record[name] for record in records) for name in names}
        row["floor_s"] = least_seconds(least, row)
        row["over_floor"] = row["run_s_min"] / row["floor_s"]
    return row


def against_reference(ours: Row, theirs: list[Row]) -> Row:
    """How many times as fast we are as their fastest, and whose times those are."""
    if not theirs:
        return {}
    best = min(theirs, key=lambda row: row["ns_per_unit"])
    return {
        "times_as_fast": best["ns_per_unit"] / ours["ns_per_unit"],
        "compile_over_reference": ours["compile_s"] / best["compile_s"]
        if best["compile_s"]
        else None,
        "reference_versions": best["versions"],
        "reference_commit": best["commit"],
    }


def _is_double_of(row: Row, other: Row) -> bool:
    same = all(row[field] == other[field] for field in ("library", "job", "units"))
    return same and (row["dtype"], other["dtype"]) == ("float64", "float32")


def table(rows: list[Row]) -> str:
    """A line for each row, the ratios, and the figures."""
    lines = []
    for row in rows:
        lines.append(
            f"  {row['run']:28} {row['run_s_min']:9.3g} s "
            f"(median {row['run_s_median']:.3g}), "
            f"{row['ns_per_unit'] / 1e6:9.3g} ms/{row['unit']}, "
            f"compiled in {row['compile_s']:6.3g} s, {row['peak_mib']:5.0f} MiB"
        )
        lines += [
            f"    {says.format(row[name])}"
            for name, says in RATIOS.items()
            if row.get(name) is not None
        ]
        lines += [
            f"    {name}: {value:.3g}"
            for name, value in row["figures"].items()
            if value is not None
        ]
    return "\n".join(lines)


RATIOS = {
    "times_as_fast": "{:.3g} times as fast as the reference",
    "compile_over_reference": "compiled in {:.3g} times the reference's time",
    "over_floor": "{:.3g} times the least time there is",
    "over_forward": "{:.3g} times the time without derivatives",
    "over_float32": "{:.3g} times the time in float32",
}
