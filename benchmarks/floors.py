"""The least time that work can take: its operations and bytes at this machine's rates.

Rates are measured, by `benchmarks.children.clock`, in the process that is judged. The
work of an infinitely wide network is counted here, from the network itself.
"""

import dataclasses
import math
from collections.abc import Mapping


# Of the rate of matrix products: what arithmetic reaches whose additions and products
# are not paired, as they are there.
UNPAIRED = 0.5
# For a pair of positions and a layer: the covariance and the tangent kernel are scaled,
# summed over windows and sent through the dual of a nonlinearity and its derivative.
OPERATIONS_OF_A_LAYER = 60
NONLINEARITIES = {"relu", "leaky_relu", "erf", "tanh"}

# Of each spatial axis, the displacements of two positions, from one to the other.
Displacements = tuple[frozenset[int], ...]


@dataclasses.dataclass(frozen=True)
class Work:
    """What has to be done at least, whatever the algorithm."""

    products: float = 0.0  # operations, a multiplication and an addition for each pair
    arithmetic: float = 0.0  # operations of any other kind
    moved: float = 0.0  # bytes, read and written


def least_seconds(work: Work, rates: Mapping[str, float]) -> float:
    """The time of operations or of bytes, the longer one: it can hide the other."""
    operations = work.products + work.arithmetic / UNPAIRED
    return max(
        operations / (1e9 * rates["matmul_gflop_per_s"]),
        work.moved / (1e9 * rates["copy_gb_per_s"]),
    )


def kernel_work(
    network: list[list],
    shape: tuple[int, ...],
    *,
    n: int,
    symmetric: bool = False,
    itemsize: int = 4,
) -> Work:
    """The work of both kernels of `n` examples with `n` others, or with themselves.

    `network` is a list of `[kind, arguments]`, `shape` that of an example, channels
    first.
    """
    channels, *size = shape
    layers: list[int] = []
    wanted = demand(network, tuple(size), (), layers)
    examples = n * (n + 1) // 2 if symmetric else n * n
    inputs = (1 if symmetric else 2) * n * math.prod(shape)
    return Work(
        products=examples * pairs(tuple(size), wanted) * 2 * channels,
        arithmetic=examples * sum(layers) * OPERATIONS_OF_A_LAYER,
        moved=itemsize * (inputs + 2 * n * n),
    )


def demand(
    network: list[list],
    size: tuple[int, ...],
    wanted: Displacements,
    layers: list[int],
) -> Displacements:
    """The displacements of its inputs that a network needs for those of its outputs.

    `layers` gets the number of pairs of positions at each nonlinearity. A readout has
    no spatial axes, hence no displacements, and one pair.
    """
    sizes = [size]
    for kind, arguments in network:
        sizes.append(size_after(kind, arguments, sizes[-1]))
    for (kind, arguments), before in zip(network[::-1], sizes[-2::-1], strict=True):
        if kind in NONLINEARITIES:
            layers.append(pairs(before, wanted))
        elif kind == "residual":
            branches = [arguments["main"], arguments["shortcut"] or []]
            both = [demand(branch, before, wanted, layers) for branch in branches]
            wanted = tuple(a | b for a, b in zip(*both, strict=True))
        elif kind != "linear":
            axes = enumerate(before)
            wanted = tuple(needed(kind, arguments, g, i, wanted) for i, g in axes)
    return wanted


def size_after(kind: str, arguments: dict, size: tuple[int, ...]) -> tuple[int, ...]:
    """Of the spatial axes."""
    if kind in ("flatten", "global_avg_pool"):
        return ()
    if kind == "avg_pool":
        return tuple(g // arguments["size"] for g in size)
    if kind == "residual":
        for inner, options in arguments["main"]:
            size = size_after(inner, options, size)
        return size
    if kind == "conv":
        windows = arguments["kernel_size"]
        if arguments["padding"] == "VALID":
            size = tuple(g - k + 1 for g, k in zip(size, windows, strict=True))
        return tuple(-(-g // arguments["stride"]) for g in size)
    if kind == "linear" or kind in NONLINEARITIES:
        return size
    raise ValueError(f"what a layer of kind {kind!r} needs is not known here.")


def needed(
    kind: str, arguments: dict, size: int, axis: int, wanted: Displacements
) -> frozenset[int]:
    """Displacements along an axis of `size` inputs that the outputs of a layer need."""
    if kind == "flatten":
        return frozenset({0})
    if kind == "global_avg_pool":
        return frozenset(range(1 - size, size))
    if kind == "conv":  # shared weights move both positions by the same offset
        found = {arguments["stride"] * d for d in wanted[axis]}
    else:  # windows have pairs of positions of their own
        found = {
            arguments["size"] * d + offset
            for d in wanted[axis]
            for offset in range(1 - arguments["size"], arguments["size"])
        }
    return frozenset(d for d in found if abs(d) < size)


def pairs(size: tuple[int, ...], wanted: Displacements) -> int:
    """How many pairs of positions have one of these displacements along each axis."""
    return math.prod(
        sum(g - abs(d) for d in axis) for g, axis in zip(size, wanted, strict=True)
    )
