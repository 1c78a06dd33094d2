r"""Wide residual networks approach the kernel of infinitely wide ones as $k^{-1/2}$.

The widening factor $k$ multiplies the channels of a residual network. Kernels of finite
ones scatter around that of the limit by $k^{-1/2}$, with a mean that is off by $1 / k$
at most. The kernel of a readout of random weights is that of the features before it,
which are taken here: a readout of so many outputs would add a noise that does not fall
with $k$. The scatter is that of logarithms, as kernels of narrow networks are products
of many random factors, and have long tails.

**Setting.** Three groups of one block each, with 4, 8 and 16 channels times $k$, two
inputs of 6 x 6 positions, 40 to 300 networks for $k$ of 1, 2, 4 and 8, NNGP kernels.
The source trains networks of 16 layers and more on CIFAR-10.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import nn
from reproductions._laboratory import (
    BLUE,
    GREY,
    ORANGE,
    Finding,
    experiment,
    near,
    panels,
    show,
    slope,
    slope_error,
    title,
)


CLAIM = "Kernels of wide residual networks approach the limit by k^(-1/2)."
SOURCE = "Zagoruyko, Komodakis 2016, arXiv:1605.07146, for the architecture"
NETWORKS = {1: 300, 2: 150, 4: 75, 8: 40}  # by widening factor


class Result(eqx.Module):
    """Kernels of networks, by widening factor, and of the limit."""

    factors: Float[Array, " factors"]
    kernels: list[Float[Array, "networks n n"]]
    limit: Float[Array, "n n"]


def network(k) -> nn.Sequential:
    conv = lambda channels, stride=1: nn.Conv(
        channels, (3, 3), stride, padding="SAME", weight_std=2**0.5
    )

    def unit(channels, stride) -> nn.Residual:
        main = [nn.Relu(), conv(channels, stride), nn.Relu(), conv(channels)]
        shortcut = nn.Sequential([nn.Relu(), conv(channels, stride)])
        return nn.Residual(nn.Sequential(main), shortcut)

    groups = [unit(4 * k, 1), unit(8 * k, 2), unit(16 * k, 2)]
    return nn.Sequential([conv(4 * k), *groups, nn.Relu(), nn.GlobalAvgPool()])


@eqx.filter_jit
def finite(x, k, keys) -> Float[Array, "networks n n"]:
    def one(key) -> Float[Array, "n n"]:
        features = jax.vmap(network(k).init(x.shape[1:], key=key))(x)
        return features @ features.T / features.shape[1]

    return jax.lax.map(one, keys)


@experiment
def run(size: str = "small") -> Result:
    """Compute the limit, and draw networks; both sizes are one."""
    x = jr.normal(jr.key(0), (2, 3, 6, 6))
    limit = eqt.nngp(nn.Sequential([*network(1).layers, nn.Linear(1)]), x)
    with jax.enable_x64(False):
        some = jnp.asarray(x, jnp.float32)
        keys = jr.split(jr.key(1), len(NETWORKS))
        kernels = [
            np.asarray(finite(some, k, jr.split(key, count)), float)
            for key, (k, count) in zip(keys, NETWORKS.items(), strict=True)
        ]
    return Result(np.array(list(NETWORKS), float), kernels, limit)


def scatter(r: Result) -> tuple[np.ndarray, np.ndarray]:
    """Deviations of logarithms of kernels, and their relative standard errors."""
    variances = [np.log(kernels).var(0, ddof=1).mean() for kernels in r.kernels]
    counts = np.array([len(kernels) for kernels in r.kernels])
    return np.sqrt(variances), (2 * counts - 2) ** -0.5


def correlation(kernels: np.ndarray) -> np.ndarray:
    """Of both inputs."""
    squares = kernels[..., 0, 0] * kernels[..., 1, 1]
    return kernels[..., 0, 1] / np.sqrt(squares)


def off(samples: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """How far a mean is off, in standard errors."""
    return (samples.mean(0) - exact) / samples.std(0, ddof=1) * len(samples) ** 0.5


def check(result: Result) -> list[Finding]:
    """Assert the rate, and that means are the limit."""
    r = result
    deviations, errors = scatter(r)
    # Of the widest, whose bias is the smallest against the error of its mean.
    widest = r.kernels[-1]
    correlations = correlation(widest), correlation(r.limit)
    return [
        # Variances of logarithms have a term of order 1 / n^2, which is a quarter of
        # them for the 4 channels of the narrowest, 0.05 in an exponent, or less.
        near(
            "scatter, exponent of k",
            slope(r.factors, deviations),
            -0.5,
            atol=0.05 + 5 * slope_error(r.factors, errors),
        ),
        near("mean, off in standard errors", off(widest, r.limit), 0, atol=5),
        near("correlation, off in standard errors", off(*correlations), 0, atol=5),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Scatter, and correlations of both inputs, against the widening factor."""
    r = result
    deviations, errors = scatter(r)
    left.errorbar(
        r.factors, deviations, 2 * deviations * errors, fmt="o-", label="networks"
    )
    line = deviations[-1] * (r.factors / r.factors[-1]) ** -0.5
    left.plot(r.factors, line, ":", color=GREY, label="$k^{-1/2}$")
    for k, kernels in zip(r.factors, r.kernels, strict=True):
        found = correlation(kernels)
        places = k * np.linspace(0.85, 1.15, len(found))
        right.plot(places, found, ".", color=BLUE, markersize=3)
    right.axhline(correlation(r.limit), color=ORANGE, label="limit")
    right.plot([], [], ".", color=BLUE, label="networks")
    name = "deviation of the kernel's logarithm"
    title(left, "Kernels scatter", "widening factor $k$", name, log="xy")
    name = "correlation of two inputs"
    title(right, "around the limit", "widening factor $k$", name, log="x")
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
