"""Count the operations that kernels start, under the budget of any kind of device.

A workload is compiled here and never run, whatever the machine. To start an operation
takes an accelerator microseconds; how many there are for an entry of the kernel bounds
its time from below. They are counted in the program that XLA makes for this machine:
another compiler fuses more or less.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import eqtangents as eqt
from benchmarks.cases import kernels
from benchmarks.children.kernels_eqtangents import sequential
from eqtangents import _budget


BUDGETS = {"accelerator": _budget.ACCELERATOR, "cpu": _budget.CPU}
# What takes no time: names for what is there.
FREE = set(
    "parameter constant tuple get-tuple-element bitcast after-all opt-barrier "
    "partition-id replica-id".split()
)
COLLECTIVES = set(
    "all-gather all-reduce all-to-all collective-permute collective-broadcast "
    "ragged-all-to-all reduce-scatter".split()
)


@dataclasses.dataclass(frozen=True)
class Launches:
    """What a program executes: of a loop's body, as often as it goes round."""

    operations: int = 0  # fusions, copies, calls of libraries and all others
    conditionals: int = 0
    conditionals_in_loops: int = 0
    collectives: int = 0

    def __add__(self, other: "Launches") -> "Launches":
        """Both, one after the other."""
        return Launches(*map(sum, zip(_fields(self), _fields(other), strict=True)))

    def repeated(self, trips: int) -> "Launches":
        """The body of a loop."""
        loop = [trips * count for count in _fields(self)]
        return dataclasses.replace(
            Launches(*loop), conditionals_in_loops=trips * self.conditionals
        )


def _fields(launches: Launches) -> tuple[int, ...]:
    return dataclasses.astuple(launches)


def launches(program: str) -> Launches:
    """What a compiled program executes, given its text."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in program.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line)
        if head:
            lines = computations["ENTRY" if head[1] else head[2]] = []
        elif " = " in line:
            lines.append(line.split(" = ", 1)[1])
    counted: dict[str, Launches] = {}

    def of(name: str) -> Launches:
        if name not in counted:
            executed = (_executed(line, of) for line in computations[name])
            counted[name] = sum(executed, Launches())
        return counted[name]

    return of("ENTRY")


def _executed(instruction: str, of: Callable[[str], Launches]) -> Launches:
    """What one instruction executes; `of` tells it of a computation."""
    found = re.search(r" ([a-z][\w-]*)\(", instruction)
    assert found is not None, f"an instruction without an operation: {instruction}"
    operation = found[1].removesuffix("-start")
    if operation in FREE or operation.endswith("-done"):
        return Launches()
    if operation == "while":
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', instruction)
        if trips is None:
            raise ValueError("a loop whose length the compiler does not know")
        return Launches(1) + of(_callee(instruction, "body")).repeated(int(trips[1]))
    if operation == "call":
        return of(_callee(instruction, "to_apply"))
    if operation == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", instruction)
        if branches is None:
            names = [
                _callee(instruction, f"{b}_computation") for b in ("true", "false")
            ]
        else:
            names = branches[1].replace("%", "").split(", ")
        longest = max(map(of, names), key=lambda branch: branch.operations)
        return Launches(1, conditionals=1) + longest
    return Launches(1, collectives=int(operation in COLLECTIVES))


def _callee(instruction: str, role: str) -> str:
    found = re.search(rf"\b{role}=%?([\w.-]+)", instruction)
    assert found is not None, f"no {role}: {instruction}"
    return found[1]


@dataclasses.dataclass(frozen=True)
class Report:
    """What there is to say of one workload."""

    launches: Launches
    entries: int
    temporary_bytes: int

    @property
    def per_entry(self) -> float:
        """Operations for each entry of the kernel."""
        return self.launches.operations / self.entries


def compiled(
    network: kernels.Network,
    shape: tuple[int, ...],  # of both batches
    budget: _budget.Budget,
    *,
    symmetric: bool = False,
    gradient: bool = False,
) -> Report:
    """Both kernels of a network, or the gradient of their sum in the first batch."""
    net = sequential(network)

    def kernel(x1: Any, x2: Any = None) -> Any:
        return eqt.kernel(net, x1, x2)

    def total(x1: Any, x2: Any = None) -> Any:
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(kernel(x1, x2)))

    batches = [jax.ShapeDtypeStruct(shape, jnp.float32)] * (1 if symmetric else 2)
    function = jax.jit(jax.grad(total) if gradient else kernel)
    with _budget.under(budget):
        program = function.lower(*batches).compile()
    text, memory = program.as_text(), program.memory_analysis()
    assert text is not None, "this machine's compiler shows its programs"
    assert memory is not None, "and says what memory they need"
    return Report(launches(text), shape[0] ** 2, memory.temp_size_in_bytes)


def limit(network: kernels.Network) -> float:
    """How many operations an accelerator may be given for each entry."""
    return 30.0 if any(kind == "conv" for kind, _ in network) else 1e-3


def main() -> int:
    """Print a line for each workload; the number beyond a limit is the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.launches", description=__doc__
    )
    cases = kernels.cases(tiny=False)
    parser.add_argument("names", nargs="*", help=f"workloads: {', '.join(cases)}")
    parser.add_argument("--budget", choices=BUDGETS, default="accelerator")
    parser.add_argument("--gradient", action="store_true", help="in the first batch")
    found = parser.parse_args()
    if unknown := set(found.names) - set(cases):
        parser.error(f"unknown workloads {sorted(unknown)}.")
    head = ["operations", "an entry", "conditionals", "collectives", "MiB"]
    print(f"{'':28}", *(f"{name:>12}" for name in head))
    beyond = []
    for name in found.names or cases:
        job = next(iter(cases[name].runs.values())).job
        report = compiled(
            job["network"],
            cases[name].inputs()["x1"].shape,
            BUDGETS[found.budget],
            symmetric=job["symmetric"],
            gradient=found.gradient,
        )
        count = report.launches
        mib = report.temporary_bytes / 2**20
        print(
            f"{name:28} {count.operations:12} {report.per_entry:12.3g} "
            f"{count.conditionals:12} {count.collectives:12} {mib:12.4g}",
            flush=True,
        )
        if found.budget == "accelerator" and not found.gradient:
            within = report.per_entry <= limit(job["network"])
            if count.conditionals_in_loops or not within:
                beyond.append(name)
    print(f"Beyond their limits: {', '.join(beyond)}." if beyond else "Within limits.")
    return int(bool(beyond))


if __name__ == "__main__":
    sys.exit(main())
