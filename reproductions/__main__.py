"""Runs all reproductions, or those that are named, and prints what each one found.

`python -m reproductions` takes the small sizes of the tests, `--size page` those of the
pages. A figure of each is saved in the folder `--figures`, if there is one.
"""

import argparse
import importlib
import pathlib
import sys
import time

from matplotlib import pyplot as plt


HERE = pathlib.Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("[a-z]*.py"))


def main() -> int:
    """Print the table; the number of claims that failed is the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="name")
    parser.add_argument("--size", choices=["small", "page"], default="small")
    parser.add_argument("--figures", type=pathlib.Path)
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"unknown {sorted(unknown)}; there are {', '.join(NAMES)}.")
    print("| reproduction | claim | paper, tolerance | ours | seconds |")
    print("|---|---|---|---|---|")
    return sum(not reproduce(name, options) for name in options.names)


def reproduce(name: str, options: argparse.Namespace) -> bool:
    """Run one, print a line for each of its findings, and say whether all hold."""
    module = importlib.import_module(f"reproductions.{name}")
    start = time.perf_counter()
    result = module.run(options.size)
    seconds = f"{time.perf_counter() - start:.0f}"
    try:
        findings = module.check(result)
    except AssertionError as error:
        print(f"| {name} | {module.CLAIM} | | **failed: {error}** | {seconds} |")
        return False
    for i, finding in enumerate(findings):
        first, last = ("", "") if i else (name, seconds)
        print(f"| {first} | {' | '.join(finding)} | {last} |", flush=True)
    if options.figures is not None:
        options.figures.mkdir(parents=True, exist_ok=True)
        figure = module.draw(result)
        figure.savefig(options.figures / f"{name}.png")
        plt.close(figure)
    return True


if __name__ == "__main__":
    sys.exit(main())
