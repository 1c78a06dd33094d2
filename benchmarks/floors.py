"""The least time that work can take: its operations and bytes at this machine's rates.

Rates are measured, by `benchmarks.children.clock`, in the process that is judged. The
work of an infinitely wide network is counted here, from the network itself.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np


# Of the rate of matrix products: what arithmetic reaches whose additions and products
# are not paired, as they are there.
UNPAIRED = 0.5
# For a pair of positions and a layer: the covariance and the tangent kernel are scaled,
# summed over windows and sent through the dual of a nonlinearity and its derivative.
OPERATIONS_OF_A_LAYER = 60
NONLINEARITIES = {"relu", "leaky_relu", "erf", "tanh"}

# Of each spatial axis, the pairs of positions that are needed: all products of these.
Pairs = tuple[np.ndarray, ...]


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
        products=examples * count(wanted) * 2 * channels,
        arithmetic=examples * sum(layers) * OPERATIONS_OF_A_LAYER,
        moved=itemsize * (inputs + 2 * n * n),
    )


def demand(
    network: list[list], size: tuple[int, ...], wanted: Pairs, layers: list[int]
) -> Pairs:
    """The pairs of positions of its inputs that those of a network's outputs depend on.

    `layers` gets the number of pairs at each nonlinearity. A readout has no spatial
    axes, hence one pair.
    """
    sizes = [size]
    for kind, arguments in network:
        sizes.append(size_after(kind, arguments, sizes[-1]))
    for (kind, arguments), before in zip(network[::-1], sizes[-2::-1], strict=True):
        if kind in NONLINEARITIES:
            layers.append(count(wanted))
        elif kind == "residual":
            branches = [arguments["main"], arguments["shortcut"] or []]
            both = [demand(branch, before, wanted, layers) for branch in branches]
            wanted = tuple(a | b for a, b in zip(*both, strict=True))
        elif kind == "flatten":
            wanted = tuple(np.eye(g, dtype=bool) for g in before)
        elif kind == "global_avg_pool":
            wanted = tuple(np.ones((g, g), bool) for g in before)
        elif kind == "avg_pool":
            wanted = tuple(
                pooled(arguments["size"], *pair)
                for pair in zip(before, wanted, strict=True)
            )
        elif kind == "conv":
            windows = arguments["kernel_size"]
            wanted = tuple(
                convolved(arguments, *axis)
                for axis in zip(windows, before, wanted, strict=True)
            )
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
        if arguments["padding"] == "VALID":
            windows = arguments["kernel_size"]
            size = tuple(g - k + 1 for g, k in zip(size, windows, strict=True))
        return tuple(-(-g // arguments["stride"]) for g in size)
    if kind == "linear" or kind in NONLINEARITIES:
        return size
    raise ValueError(f"what a layer of kind {kind!r} needs is not known here.")


def pooled(window: int, size: int, wanted: np.ndarray) -> np.ndarray:
    """Windows have all pairs of their own positions."""
    found = np.zeros((size, size), bool)
    whole = np.kron(wanted, np.ones((window, window), bool))
    found[: len(whole), : len(whole)] = whole
    return found


def convolved(arguments: dict, window: int, size: int, wanted: np.ndarray):
    """Weights that are shared move both positions of a pair by the same offset."""
    stride, padding = arguments["stride"], arguments["padding"]
    padded = max((len(wanted) - 1) * stride + window - size, 0)
    before = 0 if padding == "VALID" else padded // 2
    found = np.zeros((size, size), bool)
    for offset in range(window):
        pair = stride * np.stack(np.nonzero(wanted)) + offset - before
        if padding == "CIRCULAR":
            pair = pair % size
        inside = np.all((pair >= 0) & (pair < size), axis=0)
        found[tuple(pair[:, inside])] = True
    return found


def count(wanted: Pairs) -> int:
    """How many pairs of positions there are, over all axes."""
    return math.prod(int(axis.sum()) for axis in wanted)
