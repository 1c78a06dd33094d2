"""One page of plots and figures: `python -m benchmarks.page FILE` for a file of rows.

It is written beside the file, in one piece of HTML that needs nothing else.
"""

import html
import io
import pathlib
import sys

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from benchmarks.harness import OURS
from benchmarks.history import newest, read
from benchmarks.rows import Row


# Ratios that are drawn: what they say, and whether more is better.
PANELS = {
    "times_as_fast": ("times as fast as the reference", True),
    "over_floor": ("times the least time there is", False),
    "times_as_before": ("times as fast as the previous commit", True),
    "compile_over_reference": ("compile time over the reference's", False),
}
COLUMNS = {
    "commit": "commit",
    "run_s_min": "run, s",
    "run_s_median": "median, s",
    "compile_s": "compile, s",
    "peak_mib": "peak, MiB",
    "working_mib": "to run, MiB",
    "floor_s": "floor, s",
    **{name: says for name, (says, _) in PANELS.items()},
    "over_forward": "over no derivatives",
    "over_float32": "over float32",
}
GOOD, BAD, PLAIN = "#1b7837", "#b2182b", "#4d4d4d"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1300px;
  padding: 0 1em; color: #222; background: #fff; }
table { border-collapse: collapse; font-size: 13px; }
.wide { overflow-x: auto; }
th, td { padding: .2em .6em; text-align: right; border-bottom: 1px solid #ddd; }
th { vertical-align: bottom; } th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
"""


def main() -> None:
    """Write the page of a file of rows."""
    source = pathlib.Path(sys.argv[1])
    target = source.with_suffix(".html")
    target.write_text(page(newest(read(source))))
    print(f"The page is {target}.")


def page(rows: list[Row]) -> str:
    """The page of these rows, as HTML."""
    kept = [row for row in rows if any(row.get(name) is not None for name in PANELS)]
    parts = ["<h1>eqtangents: speed</h1>", *map(paragraph, remarks(rows))]
    if kept:
        parts.append(svg(plots(kept)))
    parts.append(f'<div class="wide">{table(rows)}</div>')
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>eqtangents: speed</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def remarks(rows: list[Row]) -> list[str]:
    """What was measured where, and what the ratios are of."""
    machines = {
        f"{row['processor']}, {row['cores']} cores, {row['system']}, "
        f"{row['platform']} ({row['device']})": None
        for row in rows
    }
    versions = {
        ", ".join(f"{name} {number}" for name, number in row[field].items())
        for row in rows
        for field in ("versions", "reference_versions")
        if field in row
    }
    said = [
        f"Machine: {'; '.join(machines)}.",
        f"Versions: {'; '.join(sorted(versions))}.",
        "Times are the shortest of several warm runs, and ratios are of those. The "
        "least time is that of the operations or of the bytes, whichever is longer, at "
        "the rates of matrix products and of copies, measured in the same process.",
    ]
    if any(row["tiny"] for row in rows):
        said.append("Tiny sizes: these are no speeds, and show that all runs.")
    if old := sorted({r["reference_time"] for r in rows if "reference_time" in r}):
        said.append(
            f"Rows without the reference beside them have its times of {old[0]} to "
            f"{old[-1]}, on the same machine."
        )
    missing = [r["case"] for r in rows if r["counts"] and "times_as_fast" not in r]
    if missing:
        said.append(f"Never measured with the reference here: {', '.join(missing)}.")
    if not any("times_as_before" in row for row in rows):
        said.append("There are no rows of an earlier commit on this machine.")
    return said


def plots(rows: list[Row]) -> Figure:
    """A panel for each ratio, a line for each row."""
    names = [label(row) for row in rows]
    shown = [n for n in PANELS if any(row.get(n) is not None for row in rows)]
    size = (4 + 3.2 * len(shown), 1.2 + 0.26 * len(rows))
    figure = Figure(size, layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for name, panel in zip(shown, axes, strict=True):
        says, more_is_better = PANELS[name]
        for place, row in enumerate(rows):
            if (value := row.get(name)) is None:
                continue
            better = value >= 1 if more_is_better else value <= 1
            colour = PLAIN if name == "over_floor" else GOOD if better else BAD
            panel.plot([1, value], [place, place], color=colour, lw=1.5)
            panel.plot(value, place, "o", color=colour, ms=4)
            panel.annotate(
                f"{value:.3g}", (value, place), fontsize=7, va="center",
                xytext=(6 if value >= 1 else -6, 0), textcoords="offset points",
                ha="left" if value >= 1 else "right",
            )  # fmt: skip
        panel.axvline(1, color="#999", lw=0.8)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())  # they run into each other
        panel.margins(x=0.25)
        panel.set_title(says, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def label(row: Row) -> str:
    """The case, and the run unless that is the only one or the one that counts."""
    run = row["run"].removeprefix(OURS).strip()
    return f"{row['case']} {run}" if run and not row["counts"] else row["case"]


def svg(figure: Figure) -> str:
    """The figure as it stands in a page; the same figure has the same text."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "page"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]


def table(rows: list[Row]) -> str:
    """All figures of all rows."""
    columns = [c for c in COLUMNS if any(row.get(c) is not None for row in rows)]
    head = "".join(f"<th>{html.escape(COLUMNS[c])}</th>" for c in columns)
    lines = [f"<tr><th></th>{head}</tr>"]
    for row in rows:
        cells = "".join(f"<td>{cell(row.get(c))}</td>" for c in columns)
        title = html.escape(f"{row['about']}; {row['dtype']}; {row['time']}")
        lines.append(
            f'<tr><td title="{title}">{html.escape(label(row))}</td>{cells}</tr>'
        )
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def cell(value: object) -> str:
    """A figure as it is printed, or nothing."""
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else html.escape(str(value))


def paragraph(text: str) -> str:
    """A paragraph of HTML."""
    return f"<p>{html.escape(text)}</p>"


if __name__ == "__main__":
    main()
