"""Kernels of infinitely wide networks, NNGP and NTK together.

A network is a list of `[kind, arguments]` that either library can build from. The kinds
are the keys of `LAYERS` in `benchmarks.children.kernels_eqtangents` and
`.kernels_reference`.
"""

import functools
from typing import Any

import numpy as np

from benchmarks.floors import kernel_work
from benchmarks.harness import (
    OURS,
    REFERENCE,
    Answer,
    Case,
    Figures,
    Run,
    relative_error,
)


Network = list[list]  # of [kind, arguments]: JSON as it stands
ROOT2 = 2**0.5
TOLERANCE = 1e-3  # of float32


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


def distinct(depth: int) -> Network:
    """Fully-connected layers, no two of which have the same variance of weights."""
    layers = (linear(ROOT2 * (1 + 0.01 * i), 0.1) for i in range(depth))
    return [one for layer in layers for one in (layer, RELU)] + [linear()]


def circular(depth: int) -> Network:
    layer = [conv(kernel_size=(5,), padding="CIRCULAR"), RELU]
    return layer * depth + [GLOBAL_AVG_POOL]


# Without those that differ in nothing but the number of examples, or depth.
SMOKE = [
    "conv21-pooled",
    "conv21-pooled-symmetric",
    "conv21-flattened",
    "myrtle5",
    "wide-resnet28",
    "fc3",
    "fc20-symmetric",
    "circular6-pooled",
]


def cases(*, tiny: bool) -> dict[str, Case]:
    """All cases by name. `tiny`: cut down until each takes well under a second."""
    image, line, vector, photo = ((3, 32, 32), (3, 256), (784,), (1, 28, 28))
    layers, blocks, few, many, lines = 21, 4, 3, 20, 6
    if tiny:
        image, line, vector, photo = ((3, 8, 8), (3, 16), (8,), (1, 4, 4))
        layers, blocks, few, many, lines = 3, 2, 2, 4, 2
    pooled = f"{layers} x (conv, ReLU), pooled", deep(layers, GLOBAL_AVG_POOL), image
    flattened = f"{layers} x (conv, ReLU), flattened", deep(layers, FLATTEN), image
    unpadded = [conv(padding="VALID"), RELU] * few + [FLATTEN]
    shrinking = f"{few} x (conv without padding, ReLU), flattened", unpadded, image
    small = f"{lines} x (conv, ReLU), flattened", deep(lines, FLATTEN), photo
    images = f"flatten, {few} x (linear, ReLU)", [FLATTEN, *fully_connected(few)], photo
    fc3 = f"{few} x (linear, ReLU)", fully_connected(few), vector
    fc20 = f"{many} x (linear, ReLU)", fully_connected(many), vector
    unequal = f"{many} x (linear of its own variance, ReLU)", distinct(many), vector
    circles = f"{lines} x (1-D circular conv, ReLU), pooled", circular(lines), line
    single = {"double": False}  # of a network that is here in double precision as well
    alone = {"symmetric": True, "reference_n": 0, "memory_limit_mib": 2048, **single}
    make = functools.partial(kernel_of, tiny=tiny)
    return {
        "conv21-pooled": make(*pooled, n=4, reference_n=2),
        "conv21-pooled-n8": make(*pooled, n=8, reference_n=2, **single),
        "conv21-pooled-symmetric": make(
            *pooled, n=16, symmetric=True, reference_n=2, **single
        ),
        "conv21-pooled-symmetric-n32": make(*pooled, n=32, **alone),
        "conv21-flattened": make(*flattened, n=64),
        "conv3-unpadded-flattened": make(*shrinking, n=64),
        "conv6-digits-flattened": make(*small, n=64, **single),
        "myrtle5": make("Myrtle-5", myrtle(), image, n=4),
        "wide-resnet28": make(
            "WideResNet-28", wide_resnet(blocks), image, n=4, reference_n=2
        ),
        "fc3": make(*fc3, n=3000),
        "fc3-images": make(*images, n=3000, **single),
        "fc20": make(*fc20, n=3000),
        "fc20-symmetric": make(*fc20, n=3000, symmetric=True),
        "fc20-unequal": make(*unequal, n=3000, **single),
        "circular6-pooled": make(*circles, n=8),
    }


def kernel_of(
    about: str,
    network: Network,
    shape: tuple[int, ...],  # of one example, channels first
    *,
    n: int,
    symmetric: bool = False,
    double: bool = True,
    reference_n: int | None = None,
    memory_limit_mib: float | None = None,
    tiny: bool,
) -> Case:
    """The kernel of `n` examples with `n` others, or with themselves.

    Where one run at `n` takes the reference over a minute, it gets the first
    `reference_n` examples only, and its memory grows with them; 0: it is not run.
    """
    n = 3 if tiny else n
    reference_n = n if reference_n is None else reference_n
    of = lambda n: {"network": network, "n": n, "symmetric": symmetric}
    least = functools.partial(kernel_work, network, shape, n=n, symmetric=symmetric)
    ours = functools.partial(Run, OURS, "kernels_eqtangents", of(n), units=n * n)
    runs = {OURS: ours(least=least(itemsize=4))}
    if double:
        runs[f"{OURS} float64"] = ours(dtype="float64", least=least(itemsize=8))
    if reference_n:
        units = reference_n**2
        job = of(reference_n)
        runs[REFERENCE] = Run(REFERENCE, "kernels_reference", job, units=units)
    return Case(
        about=f"{about}; n={n}" + (", x2=None" if symmetric else ""),
        inputs=functools.partial(inputs, (n, *shape)),
        runs=runs,
        check=functools.partial(check, symmetric),
        unit="entry",
        memory_limit_mib=memory_limit_mib,
    )


def inputs(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Two batches of float32 normal numbers, the same at every call."""
    seeds: dict[str, Any] = {"x1": 1, "x2": 2}
    draw = lambda seed: np.random.default_rng(seed).standard_normal(shape, "f4")
    return {name: draw(seed) for name, seed in seeds.items()}


def check(symmetric: bool, answers: dict[str, Answer]) -> Figures:
    """The worst error where both libraries computed; else whether it is symmetric."""
    ours, double = answers[OURS], answers.get(f"{OURS} float64")
    figures: Figures = {}
    if double is not None:
        figures["error of float32"] = relative_error(ours, double, TOLERANCE)
    if (theirs := answers.get(REFERENCE)) is None:
        if symmetric:
            relative_error({k: v.T for k, v in ours.items()}, ours, TOLERANCE)
        return figures
    n1, n2 = theirs["nngp"].shape
    ours = {name: value[:n1, :n2] for name, value in ours.items()}
    return figures | {"error": relative_error(ours, theirs, TOLERANCE)}
