r"""Learning curves from nothing but the covariance of the data.

A kernel of inputs on a sphere is a power series $K = \sum_\ell b_\ell (x \cdot x' / x
\cdot x)^\ell$. If inputs are Gaussian with principal variances $\gamma_i$, in many
dimensions, its eigenfunctions are products of Hermite polynomials in the principal
components, and the one of multi-index $\alpha$ has the eigenvalue

$$\lambda_\alpha = b_\ell\, \ell!\, \prod_i (\gamma_i / \textstyle\sum_j
\gamma_j)^{\alpha_i}, \qquad \ell = |\alpha|.$$

Errors of regression follow from eigenvalues and the target's Hermite coefficients.
Nothing is trained and no kernel matrix is diagonalised for the prediction.

**Setting.** The NTK of a hidden layer of `Erf`; Gaussian inputs in 60 dimensions of
variances $1 / \sqrt{i}$, put on a sphere, and digits of MNIST; up to 600 examples. The
target's coefficients for the digits are measured on 1,500 of them, for the 500 largest
eigenvalues; what is left counts as noise. Small eigenvalues of a sample are larger than
those of the distribution, by what it does not resolve. The source has CIFAR-5m, SVHN
and ImageNet.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import nn, theory
from reproductions._laboratory import (
    BLUE,
    COLOURS,
    ORANGE,
    Finding,
    experiment,
    mnist,
    near,
    panels,
    show,
    title,
)


CLAIM = "The data's covariance predicts spectra and learning curves of kernels."
SOURCE = "Karkada, Turnbull, Liu, Simon 2025, arXiv:2510.14878"
DIM, POINTS, LEVELS, MODES, RIDGE = 60, 1500, 8, 4000, 1e-6
SHOWN = 300  # eigenvalues


class Modes(NamedTuple):
    """Multi-indices by the components that they have, with repetition, -1 for none."""

    eigenvalues: Float[np.ndarray, " modes"]
    components: Int[np.ndarray, "modes levels"]
    tail: float


class Curve(eqx.Module):
    """The error of one target, relative to its power."""

    theory: Float[Array, " sizes"]
    mean: Float[Array, " sizes"]
    standard_error: Float[Array, " sizes"]


class Result(eqx.Module):
    """Spectra and learning curves, for Gaussian inputs and digits."""

    examples: Float[Array, " sizes"]
    predicted: dict[str, Float[Array, " modes"]]
    measured: dict[str, Float[Array, " modes"]]
    levels: Float[Array, " modes"]  # of Gaussian inputs' largest eigenvalues
    curves: dict[str, Curve]


class Study(NamedTuple):
    """Modes by the covariance, eigenvalues of the kernel, and learning curves."""

    modes: Modes
    eigenvalues: Float[np.ndarray, " n"]
    curves: dict[str, Curve]


def network() -> nn.Sequential:
    hidden = nn.Linear(1, weight_std=1.0, bias_std=0.5**0.5)
    return nn.Sequential([hidden, nn.Erf(), nn.Linear(1)])


def level_coefficients() -> tuple[Float[np.ndarray, " levels"], float]:
    """The kernel's power series in the cosine, and its value at one."""
    cosine = np.polynomial.chebyshev.chebpts1(40)
    points = np.append(cosine, 1.0)
    x = 2**0.5 * np.stack([points, np.sqrt(1 - points**2)], 1)
    k = np.asarray(eqt.ntk(network(), jnp.array([[2**0.5, 0.0]]), jnp.asarray(x)))[0]
    fitted = np.polynomial.chebyshev.chebfit(cosine, k[:-1], 30)
    return np.polynomial.chebyshev.cheb2poly(fitted)[:LEVELS], k[-1]


def hermite_modes(variances: Float[np.ndarray, " d"]) -> Modes:
    """The largest eigenvalues, from the covariance alone."""
    series, total = level_coefficients()
    shares = np.sort(variances / variances.sum())[::-1]
    products, components = np.ones(1), np.full((1, LEVELS), -1)
    found = [(series[0] * products, components)]
    for level in range(1, LEVELS):
        # Components in descending order of variance: none comes before the last one.
        last = components[:, level - 2] if level > 1 else np.zeros(1, int)
        longer = products[:, None] * shares[None]
        longer[np.arange(len(shares))[None] < last[:, None]] = 0
        count = min(MODES, longer.size)
        largest = np.argpartition(-longer, count - 1, None)[:count]
        row, column = np.unravel_index(largest, longer.shape)
        components, products = components[row], longer[row, column]
        components[:, level - 1] = column
        found.append((series[level] * math.factorial(level) * products, components))
    values, components = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(values)[::-1][:MODES]
    return Modes(values[order], components[order], total - values[order].sum())


def hermite_features(z, components) -> Float[np.ndarray, "n modes"]:
    """Normalised Hermite polynomials of whitened principal components."""
    one = [np.ones_like(z), z]
    for k in range(1, LEVELS):
        one.append((z * one[k] - k**0.5 * one[k - 1]) / (k + 1) ** 0.5)
    features = np.ones((len(z), len(components)))
    for j, picked in enumerate(components):
        for i, count in zip(
            *np.unique(picked[picked >= 0], return_counts=True), strict=True
        ):
            features[:, j] *= one[count][:, i]
    return features


def measured_errors(kernel, targets, sizes, trials) -> dict[str, np.ndarray]:
    """Errors of regression on the rest of the sample, by size and training set."""
    draws, errors = np.random.default_rng(0), {name: [] for name in targets}
    y = np.concatenate(list(targets.values()), 1)
    ends = np.cumsum([target.shape[1] for target in targets.values()])[:-1]
    for n in np.repeat(sizes, trials):
        train, test = np.split(draws.permutation(len(y)), [n])
        noisy = kernel[np.ix_(train, train)] + RIDGE * np.eye(n)
        off = kernel[np.ix_(test, train)] @ np.linalg.solve(noisy, y[train]) - y[test]
        for name, part in zip(targets, np.split(off, ends, 1), strict=True):
            errors[name].append(np.sum(part**2) / len(test))
    return {name: np.reshape(v, (len(sizes), trials)) for name, v in errors.items()}


def study(x, makers, sizes, trials, named) -> Study:
    """Predictions and measurements for inputs on a sphere."""
    variances, axes = np.linalg.eigh(x.T @ x / len(x))
    variances, axes = variances[::-1], axes[:, ::-1]
    modes = hermite_modes(variances)
    kernel = np.asarray(eqt.ntk(network(), x))
    z = x @ axes / np.sqrt(np.maximum(variances, 1e-12))
    features = hermite_features(z, modes.components[:named])
    made = {name: make(modes, features) for name, make in makers.items()}
    measured = measured_errors(
        kernel, {k: v[0] for k, v in made.items()}, sizes, trials
    )
    arrays = (modes.eigenvalues, np.ones_like(modes.eigenvalues), np.array(modes.tail))
    of_kernel, curves = theory.KernelModes(*map(jnp.asarray, arrays)), {}
    for name, (y, power, noise) in made.items():
        powers = jnp.asarray(power)
        curve = theory.LearningCurve(of_kernel, powers, ridge=RIDGE, noise=noise)
        expected = np.asarray(curve.test_error(jnp.asarray(sizes, float)))
        # Each in units of its own power, as the sample's differs from the expectation.
        errors = measured[name] / np.mean(np.sum(y**2, 1))
        curves[name] = Curve(
            theory=expected / (power.sum() + noise),
            mean=errors.mean(1),
            standard_error=errors.std(1) / trials**0.5,
        )
    return Study(modes, np.linalg.eigvalsh(kernel)[::-1] / len(x), curves)


def of_level(level: int):
    """A target with equal power in the 20 largest modes of one level."""

    def make(modes, features) -> tuple[np.ndarray, np.ndarray, float]:
        degree = np.sum(modes.components >= 0, 1)
        some = np.flatnonzero(degree == level)[:20]
        power = np.zeros(len(modes.eigenvalues))
        power[some] = 1 / len(some)
        signs = np.random.default_rng(level).choice([-1.0, 1.0], len(some))
        return features[:, some] @ (signs / len(some) ** 0.5)[:, None], power, 0.0

    return make


def of_labels(labels):
    """Classes as targets, whose Hermite coefficients are measured."""

    def make(modes, features) -> tuple[np.ndarray, np.ndarray, float]:
        y = np.eye(10)[labels] - np.mean(np.eye(10)[labels], 0)
        q, _ = np.linalg.qr(features)
        squares = np.sum((q.T @ y) ** 2, 1) / len(y)
        rest = (np.sum(y**2) / len(y) - squares.sum()) / (1 - q.shape[1] / len(y))
        power = np.zeros(len(modes.eigenvalues))
        # Each measured coefficient has a part of what is left.
        power[: len(squares)] = np.maximum(squares - rest / len(y), 0)
        return y, power, rest

    return make


@experiment
def run(size: str = "small") -> Result:
    """Predict and measure, for Gaussian inputs and for digits."""
    sizes, trials = [20, 60, 200, 600], 4 if size == "small" else 20
    draws = np.random.default_rng(0)
    x = draws.normal(size=(POINTS, DIM)) * np.arange(1, DIM + 1) ** -0.25
    x *= (DIM / np.sum(x**2, 1, keepdims=True)) ** 0.5
    targets = {f"level {k}": of_level(k) for k in (1, 2, 3)}
    gaussian = study(x, targets, sizes, trials, 1000)
    digits = mnist(POINTS, 1)
    labels = {"digits": of_labels(digits.labels)}
    real = study(digits.x, labels, sizes, trials, 500)
    both = {"Gaussian": gaussian, "digits": real}
    return Result(
        examples=np.array(sizes, float),
        predicted={name: one.modes.eigenvalues[:SHOWN] for name, one in both.items()},
        measured={name: one.eigenvalues[:SHOWN] for name, one in both.items()},
        levels=np.sum(gaussian.modes.components[:SHOWN] >= 0, 1).astype(float),
        curves=gaussian.curves | real.curves,
    )


def check(result: Result) -> list[Finding]:
    """Assert spectra and learning curves."""
    r, findings = result, []
    # 1,500 inputs know the largest eigenvalues to some per cent, and digits are not
    # Gaussian; neither are high powers of 60 components on a sphere.
    for name, count, tolerance in (("Gaussian", 60, 0.08), ("digits", 30, 0.2)):
        ratio = r.measured[name][:count] / r.predicted[name][:count]
        claim = f"{name}: largest {count} eigenvalues, measured over predicted"
        findings.append(near(claim, ratio, 1, atol=tolerance))
    for name, curve in r.curves.items():
        ratio, error = curve.mean / curve.theory, curve.standard_error / curve.theory
        off = (ratio - 1) / (0.2 + 3 * error)
        claim = f"{name}: error, over predicted - 1, over what is allowed"
        findings.append(near(claim, off, 0, atol=1))
    return findings


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Spectra, and learning curves: lines are predicted, points measured."""
    r = result
    for name, colour in {"Gaussian": BLUE, "digits": ORANGE}.items():
        rank = np.arange(1, SHOWN + 1)
        left.plot(rank, r.measured[name], ".", color=colour, markersize=3)
        left.plot(rank, r.predicted[name], color=colour, linewidth=1, label=name)
    for (name, curve), colour in zip(r.curves.items(), COLOURS, strict=False):
        right.plot(r.examples, curve.theory, color=colour, label=name)
        right.errorbar(
            r.examples, curve.mean, curve.standard_error, fmt="o", color=colour
        )
    title(
        left,
        "Eigenvalues of the NTK (lines: predicted)",
        "rank",
        "eigenvalue",
        log="xy",
    )
    title(
        right,
        "Errors of regression (lines: predicted)",
        "examples",
        "error over power",
        log="x",
    )
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
