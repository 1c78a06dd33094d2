r"""Convolutional networks are Gaussian processes too, and better ones for images.

As the number of channels grows, convolutional and residual networks approach a Gaussian
process, whose kernel is computed at the cost of one covariance a position. On digits
its posterior errs less than that of a fully-connected network, by about one digit in a
hundred.

Kernels of few channels are off by one over their number in the mean, so that networks
are compared by what two numbers of channels extrapolate to.

**Setting.** MNIST at 7 x 7 pixels, 300 digits and 2,000 others for the test, three
convolutions of size 3 without pooling; 400 networks of 8 and of 16 channels against the
kernel. The source has 28 x 28 pixels, 60,000 digits, and 32 layers.
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
    COLOURS,
    GREY,
    ORANGE,
    Finding,
    above,
    experiment,
    extrapolated,
    mnist,
    near,
    panels,
    show,
    title,
)


CLAIM = "Kernels of convolutional networks are limits, and classify digits better."
SOURCE = "Garriga-Alonso, Rasmussen, Aitchison 2019, arXiv:1808.05587"
TRAIN, TEST, CHANNELS, NETWORKS, FEW = 300, 2000, (8, 16), 400, 3


class Result(eqx.Module):
    """Kernels of finite networks and of the limit; which digits are right."""

    limits: dict[str, Float[Array, "n n"]]
    networks: dict[str, Float[Array, "two networks n n"]]
    right: dict[str, Float[Array, " test"]]


def networks(channels) -> dict[str, nn.Sequential]:
    """Without the last layer, whose weights alone make a Gaussian process."""
    options = {"weight_std": 2**0.5, "bias_std": 0.1}
    conv = lambda: nn.Conv(channels, (3, 3), padding="SAME", **options)
    unit = lambda: nn.Residual(nn.Sequential([nn.Relu(), conv()]))
    dense = lambda: nn.Linear(channels, **options)
    plain = [conv(), nn.Relu(), conv(), nn.Relu(), conv()]
    connected = [dense(), nn.Relu(), dense(), nn.Relu(), dense()]
    return {
        "convolutional": nn.Sequential([*plain, nn.Relu(), nn.Flatten()]),
        "residual": nn.Sequential([conv(), unit(), unit(), nn.Relu(), nn.Flatten()]),
        "fully connected": nn.Sequential([nn.Flatten(), *connected, nn.Relu()]),
    }


@eqx.filter_jit
def limit(name, x) -> Float[Array, "n train"]:
    net = nn.Sequential([networks(1)[name], nn.Linear(1)])
    return eqt.nngp(net, x, x[:TRAIN])


@eqx.filter_jit
def finite(name, channels, x) -> Float[Array, "networks n n"]:
    def one(key) -> Float[Array, "n n"]:
        features = jax.vmap(networks(channels)[name].init(x.shape[1:], key=key))(x)
        return features @ features.T / features.shape[1]

    return jax.lax.map(one, jr.split(jr.key(channels), NETWORKS))


@experiment
def run(size: str = "small") -> Result:
    """Sample networks, and classify digits by posteriors; both sizes are one."""
    digits = mnist(TRAIN, TEST)
    x = np.concatenate([digits.x, digits.x_test])
    x = jnp.asarray(x.reshape(-1, 1, 7, 4, 7, 4).mean((3, 5)))
    y = np.eye(10)[digits.labels] - 0.1
    limits, sampled, right = {}, {}, {}
    for name in networks(1):
        kernel = np.asarray(limit(name, x))
        train = kernel[:TRAIN]
        ridge = 1e-4 * np.trace(train) / TRAIN * np.eye(TRAIN)
        mean = kernel[TRAIN:] @ np.linalg.solve(train + ridge, y)
        right[name] = (mean.argmax(1) == digits.labels_test).astype(float)
        if name == "fully connected":
            continue
        with jax.enable_x64(False):
            some = jnp.asarray(x[:FEW], jnp.float32)
            samples = [np.asarray(finite(name, c, some), float) for c in CHANNELS]
        limits[name], sampled[name] = kernel[:FEW, :FEW], np.stack(samples)
    return Result(limits, sampled, right)


def better(r: Result, name: str) -> float:
    """McNemar's test against the fully-connected network, in standard deviations.

    Of the digits that one of them alone has right, as many would be of either.
    """
    difference = r.right[name] - r.right["fully connected"]
    return np.sum(difference) / np.sqrt(np.sum(difference != 0))


def check(result: Result) -> list[Finding]:
    """Assert that networks approach the kernels, and a paired test of errors."""
    r, findings = result, []
    for name, exact in r.limits.items():
        mean, error = extrapolated(CHANNELS, *r.networks[name])
        off = (mean - exact) / error
        findings += [
            near(f"{name}: kernels, off in standard errors", off, 0, atol=5),
            # By chance in one of forty cases.
            above(f"{name}: fewer errors, in deviations", better(r, name), 2),
        ]
    return findings


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Kernels of networks against the limit, and accuracies."""
    r = result
    for place, (name, exact) in enumerate(r.limits.items()):
        mean, error = extrapolated(CHANNELS, *r.networks[name])
        both = np.concatenate([r.networks[name].mean(1), mean[None]]) / exact
        of_all = np.concatenate(
            [r.networks[name].std(1, ddof=1) / NETWORKS**0.5, error[None]]
        )
        rows = np.triu_indices(FEW)
        for i, (a, b) in enumerate(zip(*rows, strict=True)):
            left.errorbar(
                np.arange(3) + 0.3 * place + 0.03 * i,
                both[:, a, b],
                2 * of_all[:, a, b] / exact[a, b],
                fmt="o",
                color=COLOURS[place],
                label=None if i else name,
            )
    left.axhline(1, color=GREY, linewidth=1, zorder=0)
    left.set_xticks(0.2 + np.arange(3), [*map(str, CHANNELS), "extrapolated"])
    names = [*r.limits, "fully connected"]
    for name, colour in zip(names, [BLUE, ORANGE, GREY], strict=True):
        share, count = r.right[name].mean(), r.right[name].size
        error = 200 * (share * (1 - share) / count) ** 0.5
        right.errorbar([100 * share], [name], xerr=error, fmt="o", color=colour)
    right.set_xlim(80, 95)
    right.margins(y=0.3)
    title(left, "Kernels of networks", "channels", "mean over limit")
    name = "per cent of others that are right, two standard errors"
    title(right, f"{TRAIN} digits to learn from", name, "")
    left.legend(loc="lower left")


if __name__ == "__main__":
    show(globals())
