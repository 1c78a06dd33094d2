r"""Deep Bayesian networks of infinite width work best at the edge of chaos.

The posterior of the NNGP is exact Bayesian inference for an infinitely wide network.
Its accuracy falls with depth, except near the critical weight variance, and its
variance says where it errs.

**Setting.** 150 digits of MNIST, 250 others for the test; `Erf`, up to 100 layers,
$\sigma_b^2 = 0.18$, for which $\sigma_w^2 = 1.7476$ is critical. The source has `Tanh`
and `Relu`, and all of MNIST and CIFAR-10.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
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
    block,
    experiment,
    mnist,
    near,
    panels,
    show,
    title,
)


CLAIM = "The NNGP's accuracy in deep networks peaks next to the critical line."
SOURCE = "Lee, Bahri et al. 2018, arXiv:1711.00165"
TRAIN, TEST, BIAS, CRITICAL = 150, 250, 0.18, 1.7476037497677
VARIANCES, DEPTHS = (0.5, 1.2, 1.7476037497677, 2.4, 3.5, 6.0), (2, 20, 100)


class Result(eqx.Module):
    """Accuracies by weight variance and depth; variances and errors of one network."""

    accuracy: Float[Array, "variances depths"]
    variance: Float[Array, " test"]
    squared_error: Float[Array, " test"]


@eqx.filter_jit
def kernels(x, weight_variance) -> Float[Array, "depths n n"]:
    def at(depth) -> Float[Array, "n n"]:
        first = nn.Linear(1, weight_std=jnp.sqrt(weight_variance), bias_std=BIAS**0.5)
        rest = nn.Repeat(
            block(nn.Erf(), weight_variance, BIAS), DEPTHS[-1] - 1, depth=depth
        )
        return eqt.nngp(nn.Sequential([first, rest]), x)

    return jax.vmap(at)(jnp.array(DEPTHS) - 1)


def posterior(kernel, y) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance for the test digits, with a little noise for rounding."""
    train = kernel[:TRAIN, :TRAIN] + 1e-6 * np.trace(kernel) / len(kernel) * np.eye(
        TRAIN
    )
    solved = np.linalg.solve(train, kernel[:TRAIN, TRAIN:]).T
    explained = np.sum(solved * kernel[TRAIN:, :TRAIN], 1)
    return solved @ y, np.diag(kernel)[TRAIN:] - explained


@experiment
def run(size: str = "small") -> Result:
    """Classify digits by posteriors; both sizes are one."""
    digits = mnist(TRAIN, TEST)
    x = jnp.asarray(np.concatenate([digits.x, digits.x_test]))
    y, y_test = (np.eye(10)[v] - 0.1 for v in (digits.labels, digits.labels_test))
    accuracy = []
    for variance in VARIANCES:
        found = [posterior(k, y) for k in np.asarray(kernels(x, jnp.asarray(variance)))]
        right = [np.mean(mean.argmax(1) == digits.labels_test) for mean, _ in found]
        accuracy.append(right)
        if variance == CRITICAL:
            mean, spread = found[0]
    return Result(np.array(accuracy), spread, np.mean((mean - y_test) ** 2, 1))


def check(result: Result) -> list[Finding]:
    """Assert where deep networks are best, and that variances rank errors."""
    r, deep = result, result.accuracy[:, -1]
    rank = scipy.stats.spearmanr(r.variance, r.squared_error).statistic
    best, edge = int(deep.argmax()), VARIANCES.index(CRITICAL)
    return [
        near("deep: place of the best variance on the grid", best, edge, atol=1),
        # Chance is 0.1; 250 digits know an accuracy to three points.
        above(
            "deep: accuracy at the critical variance less that at 6",
            deep[edge] - deep[-1],
            0.3,
        ),
        above("rank correlation of variance and squared error", rank, 0.3),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Accuracies against the weight variance; errors against variances."""
    r = result
    for i, depth in enumerate(DEPTHS):
        left.plot(VARIANCES, r.accuracy[:, i], "o-", label=f"{depth} layers")
    left.axvline(CRITICAL, color=GREY, linestyle=":", label="critical")
    right.plot(r.variance, r.squared_error, ".", markersize=4)
    title(left, "Accuracy", r"$\sigma_w^2$", "of 250 digits")
    title(right, "Errors of two layers", "posterior variance", "squared error", log="y")
    left.legend()


if __name__ == "__main__":
    show(globals())
