r"""The error of kernel regression falls as a power of the number of examples.

Doubling the examples divides the error of regression with the NTK by a constant, over
as many octaves as there are data.

**Setting.** Digits of MNIST, 62 to 2,000 of them (4,000 on the page), the NTK of three
hidden layers of `Relu`, 1,000 others for the test. The source goes to five million
images, and to convolutional kernels.
"""

import equinox as eqx
import numpy as np
import scipy.linalg
import scipy.special
import scipy.stats
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import nn
from reproductions._laboratory import (
    GREY,
    Finding,
    above,
    below,
    experiment,
    mnist,
    near,
    panels,
    show,
    slope,
    title,
)


CLAIM = "The error of kernel regression is a power of the number of examples."
SOURCE = "Adlam, Lee, Padhy, Nado, Snoek 2023, arXiv:2303.05420"
TEST, DRAWS = 1000, 4


class Result(eqx.Module):
    """Errors on other digits, for some numbers of examples and training sets."""

    examples: Float[Array, " sizes"]
    squared_error: Float[Array, "sizes draws"]
    wrong: Float[Array, "sizes draws"]


def network() -> nn.Sequential:
    hidden = lambda: nn.Linear(1, weight_std=2**0.5, bias_std=0.1)
    layers = [hidden(), nn.Relu(), hidden(), nn.Relu(), hidden(), nn.Relu()]
    return nn.Sequential([*layers, nn.Linear(1)])


@experiment
def run(size: str = "small") -> Result:
    """Regress with nested training sets."""
    most = 2000 if size == "small" else 4000
    sizes = [most // 2**k for k in range(5, -1, -1)]
    digits = mnist(most, TEST)
    x = np.concatenate([digits.x, digits.x_test])
    kernel = np.asarray(eqt.ntk(network(), x))
    y, y_test = (np.eye(10)[v] - 0.1 for v in (digits.labels, digits.labels_test))
    ridge, found = 1e-4 * np.trace(kernel) / len(kernel), []
    for seed in range(DRAWS):
        order = np.random.default_rng(seed).permutation(most)
        for n in sizes:
            some = order[:n]
            train = kernel[np.ix_(some, some)] + ridge * np.eye(n)
            solved = scipy.linalg.solve(train, y[some], assume_a="pos")
            mean = kernel[most:, some] @ solved
            wrong = np.mean(mean.argmax(1) != digits.labels_test)
            found.append((np.mean((mean - y_test) ** 2), wrong))
    errors = np.reshape(found, (DRAWS, len(sizes), 2)).transpose(2, 1, 0)
    return Result(np.array(sizes, float), *errors)


def check(result: Result) -> list[Finding]:
    """Assert that one power law holds over both halves of the sizes."""
    r = result
    first, second = (
        slope(r.examples[part], r.squared_error.mean(1)[part])
        for part in (slice(0, 4), slice(3, 6))
    )
    whole = np.log(r.squared_error.mean(1))
    line = np.polyfit(np.log(r.examples), whole, 1)
    off = np.abs(np.polyval(line, np.log(r.examples)) - whole).max()
    return [
        # Four training sets and one test set of 1,000 know an error to two per cent.
        near("exponent, second half and first", second, first, atol=0.08),
        below("distance of the logarithm to one line", off, 0.06),
        below("exponent", line[0], -0.25),
        above(
            "errors at 1/32 of the examples over those at all",
            r.wrong.mean(1)[0] / r.wrong.mean(1)[-1],
            2,
        ),
    ]


@panels
def draw(result: Result, axes: Axes) -> None:
    """Errors against the number of examples."""
    r = result
    line = np.polyfit(np.log(r.examples), np.log(r.squared_error.mean(1)), 1)
    for errors, name in (
        (r.squared_error, "squared error"),
        (r.wrong, "part that is wrong"),
    ):
        mean, spread = errors.mean(1), errors.std(1)
        axes.errorbar(r.examples, mean, spread, fmt="o", label=name)
    fitted = np.exp(np.polyval(line, np.log(r.examples)))
    axes.plot(r.examples, fitted, ":", color=GREY, label=f"$n^{{{line[0]:.2f}}}$")
    title(axes, "Digits, by the NTK of three hidden layers", "examples", "", log="xy")
    axes.legend()


if __name__ == "__main__":
    show(globals())
