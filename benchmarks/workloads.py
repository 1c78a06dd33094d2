"""What is measured, as plain data: networks, input shapes, batch sizes.

A network is a list of `[kind, arguments]` that either library can build from. The kinds
are the keys of `LAYERS` in `run_eqtangents.py` and `run_reference.py`.
"""

import dataclasses

import numpy as np


Network = list[list]  # of [kind, arguments]: JSON as it stands
ROOT2 = 2**0.5


@dataclasses.dataclass(frozen=True)
class Workload:
    """One kernel: `n` examples against `n` others, or against themselves."""

    about: str
    network: Network
    shape: tuple[int, ...]  # of one example, channels first
    n: int
    symmetric: bool = False  # x2=None
    # Where one run at `n` takes the reference over a minute, it gets the first so many
    # examples only. 0: it is not run.
    reference_n: int | None = None
    memory_limit_mib: float | None = None  # for eqtangents

    def inputs(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Float32 normal numbers, the same at every call."""
        x1, x2 = (
            np.random.default_rng(seed).standard_normal((self.n, *self.shape), "f4")
            for seed in (1, 2)
        )
        return x1, None if self.symmetric else x2


def conv(*, kernel_size=(3, 3), stride=1, padding="SAME", weight_std=ROOT2):
    options = {"stride": stride, "padding": padding, "weight_std": weight_std}
    return ["conv", {"kernel_size": kernel_size, **options}]


def linear(weight_std=1.0, bias_std=None):
    return ["linear", {"weight_std": weight_std, "bias_std": bias_std}]


def residual(main: Network, shortcut: Network | None = None):
    return ["residual", {"main": main, "shortcut": shortcut}]


RELU = ["relu", {}]
FLATTEN = ["flatten", {}]
HALVE = ["avg_pool", {"size": 2}]
GLOBAL_AVG_POOL = ["global_avg_pool", {}]


def deep(depth: int, readout: list) -> Network:
    return [conv(), RELU] * depth + [readout]


def myrtle() -> Network:
    stage = [conv(), RELU]
    head = [GLOBAL_AVG_POOL, linear()]
    return [*stage, *stage, HALVE, *stage, HALVE, *stage, HALVE, *head]


def wide_resnet(blocks: int) -> Network:
    """A stem and three groups of pre-activation residual blocks, two strided."""

    def block(stride: int, shortcut: Network | None) -> list:
        first, second = conv(stride=stride, weight_std=1.0), conv(weight_std=1.0)
        return residual([RELU, first, RELU, second], shortcut)

    network = [conv(weight_std=1.0)]
    for stride in (1, 2, 2):
        network += [block(stride, [conv(stride=stride, weight_std=1.0)])]
        network += [block(1, None)] * (blocks - 1)
    return [*network, GLOBAL_AVG_POOL, linear()]


def fully_connected(depth: int) -> Network:
    return [linear(ROOT2, 0.1), RELU] * depth + [linear()]


def circular(depth: int) -> Network:
    layer = [conv(kernel_size=(5,), padding="CIRCULAR"), RELU]
    return layer * depth + [GLOBAL_AVG_POOL]


# Without those that differ in nothing but `n`, or depth.
DISTINCT = ["a4", "a16sym", "b", "c", "d", "e3", "e20sym", "f"]


def workloads(*, tiny: bool) -> dict[str, Workload]:
    """All workloads by name. `tiny`: cut down until each takes well under a second."""
    image, line, vector = ((3, 32, 32), (3, 256), (784,))
    layers, blocks, few, many, lines = 21, 4, 3, 20, 6
    if tiny:
        image, line, vector = ((3, 8, 8), (3, 16), (8,))
        layers, blocks, few, many, lines = 3, 2, 2, 4, 2

    a = f"{layers} x (conv, ReLU), pooled", deep(layers, GLOBAL_AVG_POOL), image
    b = f"{layers} x (conv, ReLU), flattened", deep(layers, FLATTEN), image
    c = "Myrtle-5", myrtle(), image
    d = "WideResNet-28", wide_resnet(blocks), image
    e3 = f"{few} x (linear, ReLU)", fully_connected(few), vector
    e20 = f"{many} x (linear, ReLU)", fully_connected(many), vector
    f = f"{lines} x (1-D circular conv, ReLU), pooled", circular(lines), line
    alone = {"symmetric": True, "reference_n": 0, "memory_limit_mib": 2048}
    found = {
        "a4": Workload(*a, n=4, reference_n=2),
        "a8": Workload(*a, n=8, reference_n=2),
        "a16sym": Workload(*a, n=16, symmetric=True, reference_n=2),
        "a32sym": Workload(*a, n=32, **alone),
        "b": Workload(*b, n=64),
        "c": Workload(*c, n=4),
        "d": Workload(*d, n=4, reference_n=2),
        "e3": Workload(*e3, n=3000),
        "e20": Workload(*e20, n=3000),
        "e20sym": Workload(*e20, n=3000, symmetric=True),
        "f": Workload(*f, n=8),
    }
    if not tiny:
        return found
    return {name: dataclasses.replace(w, n=3) for name, w in found.items()}
