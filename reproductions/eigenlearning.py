r"""What kernel regression learns is conserved: learnabilities add up to the examples.

The learnability of a mode is the part of it that the prediction has if the mode is the
target. Summed over all modes of any kernel on a finite set of inputs it is $n$, the
number of examples, for every training set. Its mean over training sets is $\lambda_i /
(\lambda_i + \kappa)$, with $\kappa$ fixed by that sum, and the errors follow from it.

**Setting.** 400 digits of MNIST are all inputs that there are; the NTK of two hidden
layers of `Relu`; 20, 60 and 150 examples, 60 training sets of each, targets of one
digit against the others. The source also has networks of finite width, and other data.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import nn, theory
from reproductions._laboratory import (
    COLOURS,
    GREY,
    Finding,
    below,
    experiment,
    mnist,
    near,
    panels,
    show,
    title,
)


CLAIM = "Learnabilities add up to the number of examples, and predict errors."
SOURCE = "Simon et al. 2021, arXiv:2110.03922"
SETTINGS = {"weight_std": (0.8, 1.6), "bias_std": (0.05, 0.5)}
INPUTS, SIZES, SETS = 400, (20, 60, 150), 60


class Result(eqx.Module):
    """Learnabilities, by theory and measured, and errors."""

    examples: Float[Array, " sizes"]
    sums: Float[Array, "sizes sets"]
    learnability: Float[Array, "sizes modes"]
    standard_error: Float[Array, "sizes modes"]
    expected: Float[Array, "sizes modes"]
    error: Float[Array, "sizes 3"]  # theory, mean, standard error
    eigenvalues: Float[Array, " modes"]


def network(weight_std, bias_std) -> nn.Sequential:
    hidden = lambda: nn.Linear(1, weight_std=weight_std, bias_std=bias_std)
    return nn.Sequential([hidden(), nn.Relu(), hidden(), nn.Relu(), nn.Linear(1)])


def regressions(kernel, vectors, y, n) -> tuple[np.ndarray, np.ndarray]:
    """Learnabilities and test errors, for each training set."""
    draws, learned, errors = np.random.default_rng(n), [], []
    for _ in range(SETS):
        some = draws.choice(INPUTS, n, replace=False)
        solved = np.linalg.solve(kernel[np.ix_(some, some)], kernel[some]).T
        learned.append(np.sum((vectors.T @ solved) * vectors[some].T, 1))
        errors.append(np.mean((solved @ y[some] - y) ** 2))
    return np.stack(learned), np.stack(errors)


@experiment
def run(
    size: str = "small", *, weight_std: float = 1.4, bias_std: float = 0.1
) -> Result:
    """Predict what is learned, and measure it; both sizes are one."""
    digits = mnist(INPUTS, 1)
    net = network(jnp.asarray(weight_std), jnp.asarray(bias_std))
    kernel = np.asarray(eqt.ntk(net, digits.x))
    y = np.where(digits.labels == 3, 1.0, 0.0) - np.mean(digits.labels == 3)
    modes, power = theory.modes_of_data(jnp.asarray(kernel), jnp.asarray(y)[:, None])
    curve, n = theory.LearningCurve(modes, power), jnp.array(SIZES, float)
    vectors = np.linalg.eigh(kernel)[1][:, ::-1]
    found = [regressions(kernel, vectors, y, size) for size in SIZES]
    learned, errors = (np.stack(part) for part in zip(*found, strict=True))
    root = SETS**0.5
    return Result(
        examples=n,
        sums=learned.sum(2),
        learnability=learned.mean(1),
        standard_error=learned.std(1) / root,
        expected=curve.learnability(n),
        error=np.stack([curve.test_error(n), errors.mean(1), errors.std(1) / root], 1),
        eigenvalues=modes.eigenvalues,
    )


def check(result: Result) -> list[Finding]:
    """Assert the conservation law, and what the theory predicts."""
    r = result
    expected, mean, standard_error = r.error.T
    off = np.mean((r.learnability - r.expected) ** 2, 1) ** 0.5
    # Training sets of a finite number of inputs have no input twice, which the theory
    # does not know: some per cent where they are a good part of all.
    allowed = 0.1 + 3 * standard_error / expected
    sums = r.sums / r.examples[:, None]
    return [
        # It is the trace of a projection, up to rounding of a solve.
        near("sum of learnabilities over n", sums, 1, rtol=1e-9),
        near(
            "error, over theory - 1, over what is allowed",
            (mean / expected - 1) / allowed,
            0,
            atol=1,
        ),
        below("learnabilities less theory, root mean square", off, 0.03),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Learnabilities by eigenvalue; errors against the number of examples."""
    r = result
    for n, expected, learned, colour in zip(
        r.examples, r.expected, r.learnability, COLOURS, strict=False
    ):
        left.plot(r.eigenvalues, expected, color=colour, label=f"{n:.0f} examples")
        left.plot(r.eigenvalues, learned, ".", color=colour, alpha=0.5)
    expected, mean, standard_error = r.error.T
    right.plot(r.examples, expected, color=GREY, label="theory")
    right.errorbar(r.examples, mean, standard_error, fmt="o", label="regression")
    title(left, "Learnabilities", "eigenvalue", "learnability", log="x")
    title(right, "Is it a three?", "examples", "mean squared error", log="x")
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
