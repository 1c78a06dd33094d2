"""Handwritten digits, by networks of finite and of infinite width.

Two networks, each written once. Of each we compute, for a held-out third of the data,

- the exact posterior of the infinitely wide network with random weights (NNGP),
- the prediction of the infinitely wide network trained for an infinite time (NTK),
- the predictions of three finite networks of the same definition, which differ in their
  random start and in their batches, trained with optax,

and then how fast finite networks approach infinite ones as they get wider.

`python examples/quickstart.py` says how long it will take, prints a table and what one
sees, and saves a figure, `quickstart.png`.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import eqtangents as eqt
from eqtangents import nn
from eqtangents.predict import GaussianProcess, encode_labels
from style import COLOURS, log_axis, panels


jax.config.update("jax_default_prng_impl", "rbg")  # compiles faster on a CPU


# ------------------------------------------------------------------------------------
# The networks. The kernels do not depend on `width`; only finite networks do.
# ------------------------------------------------------------------------------------


def fully_connected(width):
    hidden = functools.partial(nn.Linear, width, weight_std=2**0.5, bias_std=0.1)
    return nn.Sequential(
        [nn.Flatten(), hidden(), nn.Relu(), hidden(), nn.Relu(), nn.Linear(10)]
    )


def convolutional(width):
    conv = functools.partial(
        nn.Conv, width, 3, padding="SAME", weight_std=2**0.5, bias_std=0.1
    )
    return nn.Sequential(
        [
            conv(),
            nn.Relu(),
            conv(stride=2),
            nn.Relu(),
            nn.GlobalAvgPool(),
            nn.Linear(10),
        ]
    )


NETWORKS = {"Fully connected": fully_connected, "Convolutional": convolutional}
TRAINED_WIDTH = {"Fully connected": 256, "Convolutional": 32}
TRAINING_STEPS, SEEDS = 600, 3

TRAIN_SIZES = [10, 30, 100, 300, 600, 1198]
TRAIN_SIZES_FINITE = [100, 300, 1198]
WIDTHS = [16, 32, 64, 128, 256]


def load():
    """Images, centred one-hot targets, and how many of the first are for training."""
    digits = load_digits()
    images = digits.images[:, None].astype(np.float32)  # (examples, channels, 8, 8)
    images = (images - images.mean()) / images.std()
    targets = encode_labels(jnp.asarray(digits.target), 10, jnp.float32)
    train, test = train_test_split(
        np.arange(len(images)), test_size=1 / 3, stratify=digits.target, random_state=0
    )
    order = np.concatenate([train, test])
    return jnp.asarray(images[order]), targets[order], len(train)


# ------------------------------------------------------------------------------------
# Infinite width: one kernel of all images, of which every training set is a block.
# ------------------------------------------------------------------------------------


@jax.jit
def predict(kernel, y, train, test):
    """Mean and variance of the outputs for the images `test`, having seen `train`."""
    k_train_train = kernel[jnp.ix_(train, train)]
    posterior = GaussianProcess(k_train_train, y[train], relative_noise=1e-4)
    k_test_train = kernel[jnp.ix_(test, train)]
    variance = posterior.variance(k_test_train, jnp.diagonal(kernel)[test])
    return posterior.mean(k_test_train), variance


def right(predicted, y):
    return jnp.argmax(predicted, axis=-1) == jnp.argmax(y, axis=-1)


def learning_curve(kernel, y, n_train, advance):
    """Test accuracy against the number of training images, averaged over choices."""
    test = np.arange(n_train, len(y))
    accuracies = []
    for size in TRAIN_SIZES:
        rng = np.random.default_rng(0)  # the same choices for every kernel
        choices = 1 if size == n_train else 32 if size <= 100 else 4
        total = 0.0
        for _ in range(choices):
            mean, _ = predict(kernel, y, rng.permutation(n_train)[:size], test)
            total += float(jnp.mean(right(mean, y[test])))
        accuracies.append(total / choices)
        advance(1 / 2 / len(TRAIN_SIZES))
    return accuracies


# ------------------------------------------------------------------------------------
# Finite width.
# ------------------------------------------------------------------------------------


OPTIMISER = optax.adam(optax.cosine_decay_schedule(0.03, TRAINING_STEPS))


@eqx.filter_jit
def train_step(model, state, x, y):
    """One step of the optimiser on the mean squared error of a batch."""
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params):
        outputs = jax.vmap(eqx.combine(params, static))(x)
        return jnp.mean((outputs - y) ** 2)

    updates, state = OPTIMISER.update(jax.grad(loss)(params), state)
    return eqx.apply_updates(model, updates), state


def train_finite(net, x, y, n_train, seed):
    """Outputs of a finite network for all images, of which it saw the first `n_train`.

    Networks are trained one after another: a CPU maps convolutions over weights slowly.
    """
    model = net.init(x.shape[1:], key=jr.key(seed))
    state = OPTIMISER.init(eqx.filter(model, eqx.is_inexact_array))
    rng = np.random.default_rng(seed)
    for _ in range(TRAINING_STEPS):
        batch = rng.integers(n_train, size=64)
        model, state = train_step(model, state, x[batch], y[batch])
    return outputs(model, x)


@eqx.filter_jit
def outputs(model, x):
    """What a finite network makes of a batch."""
    return jax.vmap(model)(x)


def distance_to_infinity(make, x, advance, draws=16):
    """Root mean square over networks of the relative distance, for each width."""
    infinite = eqt.ntk(make(1), x)
    distances = []
    for width in WIDTHS:
        squares = []
        for key in jr.split(jr.key(0), draws):
            model = make(width).init(x.shape[1:], key=key)
            finite = eqt.empirical_ntk(model, x)
            squares.append(jnp.sum((finite - infinite) ** 2))
            advance(1 / len(WIDTHS) / draws)
        distance = jnp.sqrt(jnp.mean(jnp.stack(squares))) / jnp.linalg.norm(infinite)
        distances.append(float(distance))
    return distances


# ------------------------------------------------------------------------------------
# The study of one network.
# ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Study:
    """What the table and the figure show of one network."""

    rows: list[tuple[str, ...]]
    curves: dict[str, list[float]]  # accuracies at `TRAIN_SIZES`
    finite: np.ndarray  # accuracies at `TRAIN_SIZES_FINITE`, of each network
    distances: list[float]  # at `WIDTHS`
    doubts: str  # what the posterior knows of its own mistakes


def study(name, x, y, n_train, progress):
    """Run all of the above for one network, showing progress."""
    make, width = NETWORKS[name], TRAINED_WIDTH[name]
    train, test = np.arange(n_train), np.arange(n_train, len(y))
    rows, curves, finite = [], {}, []

    def add_row(kind, predictions, seconds):
        accuracies = [jnp.mean(right(mean, y[test])) for mean in predictions]
        errors = [jnp.mean((mean - y[test]) ** 2) for mean in predictions]
        error = f"{np.mean(errors):.4f}"
        rows.append((name, kind, spread(accuracies), error, f"{seconds:.1f}"))

    with stage(progress, f"{name}: both kernels of {len(x):,} images"):
        kernel, kernel_seconds = timed(eqt.kernel, make(width), x)

    with stage(progress, f"{name}: infinite networks") as advance:
        for kind, matrix in (("NNGP", kernel.nngp), ("NTK", kernel.ntk)):
            (mean, variance), seconds = timed(predict, matrix, y, train, test)
            add_row(f"infinite, {kind}", [mean], kernel_seconds + seconds)
            curves[kind] = learning_curve(matrix, y, n_train, advance)
            if kind == "NNGP":
                remark = doubts(mean, variance, y[test])

    with stage(progress, f"{name}: finite networks") as advance:
        for size in TRAIN_SIZES_FINITE:
            predictions, seconds = [], 0.0
            for seed in range(SEEDS):
                found, taken = timed(train_finite, make(width), x, y, size, seed)
                predictions.append(found[test])
                seconds += taken / SEEDS
                advance(1 / SEEDS / len(TRAIN_SIZES_FINITE))
            finite.append([float(jnp.mean(right(p, y[test]))) for p in predictions])
        add_row(f"finite, {width} wide", predictions, seconds)

    with stage(progress, f"{name}: ever wider networks") as advance:
        distances = distance_to_infinity(make, x[:8], advance)
    return Study(rows, curves, np.asarray(finite), distances, remark)


def spread(accuracies):
    """The mean, and the standard deviation if there are several."""
    mean = f"{np.mean(accuracies):.1%}"
    if len(accuracies) == 1:
        return mean
    return f"{mean} \N{PLUS-MINUS SIGN} {np.std(accuracies, ddof=1):.1%}"


def doubts(mean, variance, y):
    correct, deviation = right(mean, y), jnp.sqrt(variance)
    surer, unsure = jnp.mean(deviation[correct]), jnp.mean(deviation[~correct])
    return (
        f"{surer:.3f} for digits that it gets right, and {unsure:.3f} for the "
        f"{jnp.sum(~correct)} that it gets wrong"
    )


@contextlib.contextmanager
def stage(progress, description):
    """A line of progress. Gives a function that advances it by a fraction."""
    task = progress.add_task(description, total=1)
    yield functools.partial(progress.advance, task)
    progress.update(task, completed=1)


def timed(call, *args):
    start = time.perf_counter()
    result = jax.block_until_ready(call(*args))
    return result, time.perf_counter() - start


# ------------------------------------------------------------------------------------
# Table and figure.
# ------------------------------------------------------------------------------------


def tabulate(studies, n_train, n_test):
    table = Table(title=f"Digits: {n_train:,} to train, {n_test} to test")
    for header in ("network", "width and kernel"):
        table.add_column(header)
    for header in ("test accuracy", "test MSE", "seconds"):
        table.add_column(header, justify="right")
    for one in studies.values():
        for row in one.rows:
            table.add_row(*row)
        table.add_section()
    table.caption = (
        f"Finite: mean and standard deviation of {SEEDS} networks; seconds for one. "
        "One call gives both kernels: its time is in both rows."
    )
    return table


OF_NETWORK = {"Fully connected": COLOURS["blue"], "Convolutional": COLOURS["orange"]}
GREY = COLOURS["grey"]
LINES = {"NTK": "-", "NNGP": (0, (4, 2))}
DOTS = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 7,
    "markeredgewidth": 1.8,
    "markerfacecolor": "white",
    "zorder": 3,
}


def draw(studies, path):
    with panels(path, 2, width_ratios=(1.15, 1)) as (left, right):
        draw_curves(left, studies)
        draw_distances(right, studies)


def draw_curves(axes, studies):
    error = lambda accuracy: 1 - np.asarray(accuracy)
    for name, one in studies.items():
        colour = OF_NETWORK[name]
        for kind, line in LINES.items():
            axes.plot(
                TRAIN_SIZES, error(one.curves[kind]), color=colour, linestyle=line
            )
        wrong = error(one.finite)
        bars = {"yerr": wrong.std(axis=1, ddof=1), "ecolor": colour, "capsize": 4}
        axes.errorbar(
            TRAIN_SIZES_FINITE, wrong.mean(axis=1), color=colour, **bars, **DOTS
        )

    def sample(label, **options):
        return plt.Line2D([], [], label=label, **options)

    axes.legend(
        handles=[
            *(sample(name, color=OF_NETWORK[name], linewidth=6) for name in studies),
            sample("infinite, trained (NTK)", color=GREY, linestyle=LINES["NTK"]),
            sample("infinite, posterior (NNGP)", color=GREY, linestyle=LINES["NNGP"]),
            sample(f"finite, trained: {SEEDS} networks", color=GREY, **DOTS),
        ],
        loc="upper left",
    )
    # Errors on a logarithmic axis, labelled as accuracies: it shows the last per cent.
    axes.set_yscale("log")
    axes.invert_yaxis()
    accuracies = [30, 50, 70, 80, 90, 95, 98, 99, 99.5]
    axes.set_yticks([1 - a / 100 for a in accuracies], [f"{a}%" for a in accuracies])
    log_axis(axes, x=[10, 30, 100, 300, 1000])
    axes.set_title("What they learn from a few digits")
    axes.set_xlabel("training images")
    axes.set_ylabel("test accuracy")


def draw_distances(axes, studies):
    for name, one in studies.items():
        label = f"{name}: fitted slope {slope(one):.2f}".replace("-", "\N{MINUS SIGN}")
        axes.plot(WIDTHS, one.distances, color=OF_NETWORK[name], label=label, **DOTS)
        scale = np.exp(np.mean(np.log(one.distances) + np.log(WIDTHS) / 2))
        axes.plot(
            WIDTHS, scale / np.sqrt(WIDTHS), color=OF_NETWORK[name], linewidth=1.5
        )
    axes.plot([], [], color=GREY, linewidth=1.5, label="theory: slope \N{MINUS SIGN}½")
    log_axis(axes, x=WIDTHS, y=[0.05, 0.1, 0.2, 0.5, 1])
    axes.set_title("Wider networks approach the infinite one")
    axes.set_xlabel("width of the finite network")
    axes.set_ylabel("relative distance of its tangent kernel")
    axes.legend(loc="lower left")


def slope(one):
    """Of the logarithm of the distance against that of the width."""
    return np.polyfit(np.log(WIDTHS), np.log(one.distances), 1)[0]


def seen(studies):
    """What table and figure show, in words."""
    yield (
        "\nThe more digits they have seen, the more they get right, whether finite or "
        "infinite (left). Tangent kernels of finite networks come closer to their "
        "limit, with about the root of the width (right)."
    )
    for name, one in studies.items():
        finite, infinite = np.mean(one.finite[-1]), one.curves["NTK"][-1]
        yield (
            f"{name}: finite networks of width {TRAINED_WIDTH[name]} get "
            f"{100 * (infinite - finite):.1f} points less than infinite ones (NTK). Of "
            f"the posterior (NNGP), the standard deviation averages {one.doubts}."
        )


def main():
    console = Console()
    console.print(
        f"Digits, by infinite networks and by {SEEDS} finite ones of each kind. This "
        "takes [bold]about a minute and a half[/bold] on two idle cores."
    )
    x, y, n_train = load()
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        studies = {name: study(name, x, y, n_train, progress) for name in NETWORKS}
    console.print(tabulate(studies, n_train, len(y) - n_train))
    console.print(*seen(studies), sep="\n")
    path = pathlib.Path("quickstart.png").resolve()
    draw(studies, path)
    console.print(f"Figure: {path}")


if __name__ == "__main__":
    main()
