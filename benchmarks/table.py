"""The table that is printed, and the statistics in it."""

import statistics

from benchmarks.workloads import Workload


COLUMNS = {
    "workload": 8,
    "what": 38,
    "n": 7,
    "compile s": 13,
    "run s": 15,
    "ms/entry": 19,
    "ratio": 6,
    "peak MiB": 11,
    "error": 5,
}
LEGEND = """
Pairs are eqtangents / Neural Tangents.
compile   tracing, lowering and XLA; median over processes
run       median over the warm runs of all processes
ms/entry  run time over n1 n2, also where x2=None
ratio     of ms/entry: how many times faster eqtangents is
peak MiB  resident memory of the whole process, imports included
error     relative, of NNGP or NTK, whichever is worse, on the block both computed
*         one run of Neural Tangents at this n takes over a minute: it was timed at the
          n behind the slash; compare per entry, and mind that its memory grows with n
""".strip()


def summary(records: list[dict]) -> dict:
    """What one library needed for one workload, over all processes."""
    runs = [seconds for record in records for seconds in record["run_s"]]
    median = statistics.median(runs)
    return {
        "compile_s_median": statistics.median(r["compile_s"] for r in records),
        "run_s_median": median,
        "run_s_min": min(runs),
        "run_s_max": max(runs),
        "ms_per_entry": 1e3 * median / records[0]["n"] ** 2,
        "peak_mib": max(record["peak_mib"] for record in records),
    }


def row(
    name: str, workload: Workload, eqtangents: list[dict], reference: list[dict]
) -> str:
    """One line of the table; `reference` may be empty."""
    found = [summary(records) for records in (eqtangents, reference) if records]

    def both(key: str, form: str = ".3g") -> str:
        return " / ".join(format(each[key], form) for each in found)

    n, ratio, error = str(workload.n), "", ""
    if reference:
        if reference[0]["n"] != workload.n:
            n += f" / {reference[0]['n']}*"
        ratio = f"{found[1]['ms_per_entry'] / found[0]['ms_per_entry']:.3g}"
        error = f"{max(record['relative_error'] for record in eqtangents):.0e}"
    times = both("compile_s_median"), both("run_s_median"), both("ms_per_entry")
    peak = both("peak_mib", ".0f")
    return line(name, workload.about, n, *times, ratio, peak, error)


def line(*cells: str) -> str:
    widths = COLUMNS.values()
    padded = (c.ljust(width) for c, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()
