r"""Without pooling, infinitely wide networks do not notice that weights are shared.

A convolution that ends in `Flatten` has the kernels of one whose weights differ from
position to position: positions are uncorrelated in either. Under global pooling their
kernels differ. Kernels of finite networks, averaged over $M$ draws of $n$ channels,
approach those of the limit as $(n M)^{-1/2}$.

**Setting.** Two convolutions of size 3, `Relu`, four random inputs of 3 channels and 6
x 6 positions. The source classifies CIFAR-10; here there are kernels alone.
"""

import functools

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
    GREY,
    Finding,
    above,
    experiment,
    near,
    panels,
    show,
    slope,
    title,
)


CLAIM = "Without pooling, sharing weights does not show in the limit of infinite width."
SOURCE = "Novak et al. 2019, arXiv:1810.05148"
SETTINGS = {"weight_std": (0.5, 2.5), "bias_std": (0.05, 1.0)}
DRAWS, SIZES = 256, 4 ** np.arange(4)


class Result(eqx.Module):
    """Kernels of both layers and readouts; errors of finite networks."""

    shared: dict[str, eqt.Kernel]
    local: dict[str, eqt.Kernel]
    channels: Float[Array, " widths"]
    draws: Float[Array, " sizes"]
    error: Float[Array, "widths sizes"]


def network(
    layer, readout, channels, *, weight_std=2**0.5, bias_std=0.1
) -> nn.Sequential:
    conv = lambda: layer(
        channels, 3, padding="SAME", weight_std=weight_std, bias_std=bias_std
    )
    hidden = [conv(), nn.Relu(), conv(), nn.Relu()]
    return nn.Sequential([*hidden, readout, nn.Linear(channels)])


@eqx.filter_jit
def kernel(layer, readout, x, weight_std, bias_std) -> eqt.Kernel:
    return eqt.kernel(
        network(layer, readout, 1, weight_std=weight_std, bias_std=bias_std), x
    )


@eqx.filter_jit
def finite_kernels(x, channels) -> Float[Array, "draws n n"]:
    net = network(nn.Conv, nn.Flatten(), channels)

    def one(key) -> Float[Array, "n n"]:
        outputs = jax.vmap(net.init(x.shape[1:], key=key))(x)
        return outputs @ outputs.T / channels

    return jax.lax.map(one, jr.split(jr.key(1), DRAWS))


@functools.cache  # They are the same for all settings.
def finite_errors(channels: int) -> Float[np.ndarray, " sizes"]:
    x = np.asarray(inputs(), np.float32)
    with jax.enable_x64(False):  # Convolutions are many times faster.
        samples = np.asarray(finite_kernels(x, channels), float)
        limit = np.asarray(eqt.nngp(network(nn.Conv, nn.Flatten(), 1), x), float)
    means = [samples.reshape(-1, int(m), *limit.shape).mean(1) for m in SIZES]
    errors = [np.sqrt(np.mean((k - limit) ** 2)) for k in means]
    return np.array(errors) / np.sqrt(np.mean(limit**2))


@experiment
def run(
    size: str = "small", *, weight_std: float = 2**0.5, bias_std: float = 0.1
) -> Result:
    """Compute the four limits, and kernels of finite networks."""
    x = inputs()
    readouts = {"Flatten": nn.Flatten(), "GlobalAvgPool": nn.GlobalAvgPool()}
    stds = jnp.asarray(weight_std), jnp.asarray(bias_std)
    limits = [
        {name: kernel(layer, readout, x, *stds) for name, readout in readouts.items()}
        for layer in (nn.Conv, nn.ConvLocal)
    ]
    channels = [4, 12, 32] if size == "small" else [4, 8, 16, 32, 64, 128]
    errors = np.stack([finite_errors(n) for n in channels])
    return Result(*limits, np.array(channels, float), np.asarray(SIZES, float), errors)


def inputs() -> Float[Array, "4 3 6 6"]:
    return jr.normal(jr.key(0), (4, 3, 6, 6))


def check(result: Result) -> list[Finding]:
    """Assert equality without pooling, difference with it, and the rate."""
    r, findings = result, []
    for kind in ("nngp", "ntk"):
        shared, local = (
            {name: getattr(k, kind) for name, k in kernels.items()}
            for kernels in (r.shared, r.local)
        )
        both = shared["Flatten"], local["Flatten"]
        # The two programs add in other orders.
        findings.append(
            near(f"{kind} under `Flatten`, shared and local", *both, rtol=1e-13)
        )
        pooled = np.abs(shared["GlobalAvgPool"] / local["GlobalAvgPool"] - 1).max()
        findings.append(
            above(f"{kind} under `GlobalAvgPool`, relative difference", pooled, 0.02)
        )
    product = r.channels[:, None] * r.draws[None]
    # One exponent over channels and draws together; 256 draws in all know it to 0.04.
    rate = slope(product.ravel(), r.error.ravel())
    return [*findings, near("Monte Carlo error, exponent", rate, -0.5, atol=0.1)]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Both kernels under both readouts; errors against channels times draws."""
    r = result
    for name, marker in {"Flatten": "o", "GlobalAvgPool": "^"}.items():
        k1, k2 = r.shared[name].nngp, r.local[name].nngp
        scale = np.trace(k1) / len(k1)
        left.plot(k1.ravel() / scale, k2.ravel() / scale, marker, label=name)
    left.axline((0, 0), slope=1, color=GREY, linewidth=1, zorder=0)
    for n, errors in zip(r.channels, r.error, strict=True):
        right.plot(n * r.draws, errors, "o-", label=f"{n:.0f} channels")
    x = np.array([4.0, 4096.0])
    right.plot(x, 2 * x**-0.5, ":", color=GREY, label=r"$\propto (n M)^{-1/2}$")
    title(left, "NNGP kernels", "shared weights", "weights of their own")
    title(
        right,
        "Finite networks",
        "channels $n$ times draws $M$",
        "relative error",
        log="xy",
    )
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
