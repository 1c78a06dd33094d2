r"""The standard parameterisation has a limit if widths grow at fixed learning rates.

With weights drawn at their scale, the NTK of a network grows with its width $n$, so
that there is no limit at a fixed learning rate. Let layers have width $N s$ instead,
and divide by $\sqrt{s}$ in the forward pass: for $s \to \infty$ there is one. Its
kernel is that of the NTK parameterisation with the weights' part of each layer times $N
/ \sigma_w^2$, and the biases' part over $\sigma_b^2$: the learning rates of the network
of width $N$.

**Setting.** Two hidden layers of `Relu`; five inputs in eight dimensions for the rates;
networks of base width 16 and $s$ of 1, 4, 16, 24 of each; 600 and 600 digits of MNIST
for the accuracy. The source classifies CIFAR-10, with convolutions.
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
    experiment,
    mnist,
    near,
    panels,
    show,
    slope,
    title,
)


CLAIM = "The improved standard parameterisation has a limit, the naive one has none."
SOURCE = "Sohl-Dickstein, Novak, Schoenholz, Lee 2020, arXiv:2001.07301"
SETTINGS = {"weight_std": (1.0, 2.0), "bias_std": (0.1, 1.0)}
BASE, SEEDS, N = 16, 24, 600


class Result(eqx.Module):
    """Kernels in both parameterisations, and those of finite networks."""

    widths: Float[Array, " widths"]
    naive: Float[Array, " widths"]  # mean diagonal of the NTK
    multipliers: Float[Array, " multipliers"]
    error: Float[Array, " multipliers"]
    ratios: Float[Array, " leaves"]  # standard over NTK, of each leaf's kernel
    expected_ratios: Float[Array, " leaves"]
    accuracy: Float[Array, "2"]


def network(
    width, s, parameterization, *, weight_std=1.4, bias_std=0.3
) -> nn.Sequential:
    """Layers of width `width` times `s`; the readout is as wide as it is asked for."""
    standard = parameterization == "standard"
    multipliers = ((1, s), (s, s), (s, 1)) if standard else ((1, 1),) * 3
    layer = lambda i, n: nn.Linear(
        n,
        weight_std=weight_std,
        bias_std=bias_std,
        parameterization=nn.Standard(multipliers[i]) if standard else nn.NTK(),
    )
    return nn.Sequential(
        [layer(0, width), nn.Relu(), layer(1, width), nn.Relu(), layer(2, 1)]
    )


def inputs() -> Float[Array, "5 8"]:
    return jr.normal(jr.key(0), (5, 8))


@eqx.filter_jit
def finite(width, s) -> Float[Array, "seeds n n"]:
    """Kernels of networks in the standard parameterisation."""
    x, net = inputs(), network(width, s, "standard")
    one = lambda key: eqt.empirical_ntk(net.init((8,), key=key), x)
    return jax.lax.map(one, jr.split(jr.key(1), SEEDS))


@functools.cache  # They are the same for all settings.
def of_networks() -> tuple[np.ndarray, ...]:
    widths, multipliers = (64, 512), (1, 4, 16)
    naive = [jnp.trace(finite(n, 1).mean(0)) / 5 for n in widths]
    limit = eqt.ntk(network(BASE, 1, "standard"), inputs())
    off = [finite(BASE, s) - limit[None] for s in multipliers]
    error = [jnp.sqrt(jnp.mean(e**2) / jnp.mean(limit**2)) for e in off]
    return tuple(map(np.array, (widths, naive, multipliers, error)))


@functools.cache
def accuracies() -> Float[np.ndarray, "2"]:
    digits, found = mnist(N, N), []
    y = np.eye(10)[digits.labels] - 0.1
    for parameterization in ("ntk", "standard"):
        net = network(512, 1, parameterization)
        k = np.asarray(eqt.ntk(net, np.concatenate([digits.x, digits.x_test])))
        ridge = 1e-6 * np.trace(k) / len(k) * np.eye(N)
        mean = k[N:, :N] @ np.linalg.solve(k[:N, :N] + ridge, y)
        found.append(np.mean(mean.argmax(1) == digits.labels_test))
    return np.array(found)


@experiment
def run(
    size: str = "small", *, weight_std: float = 1.4, bias_std: float = 0.3
) -> Result:
    """Compare the two, leaf by leaf and in the limit; both sizes are one."""
    stds = {"weight_std": jnp.asarray(weight_std), "bias_std": jnp.asarray(bias_std)}
    leaves = [
        jax.tree.leaves(eqt.ntk_by_leaf(network(BASE, 1, kind, **stds), inputs()))
        for kind in ("ntk", "standard")
    ]
    # Each layer has weights, then biases; the fan-ins are those of the base network.
    fans = np.repeat([8.0, BASE, BASE], 2) / weight_std**2
    fans[1::2] = 1 / bias_std**2
    widths, naive, multipliers, error = of_networks()
    return Result(
        widths=widths.astype(float),
        naive=naive,
        multipliers=multipliers.astype(float),
        error=error,
        ratios=np.array([b[0, 1] / a[0, 1] for a, b in zip(*leaves, strict=True)]),
        expected_ratios=fans,
        accuracy=accuracies(),
    )


def check(result: Result) -> list[Finding]:
    """Assert both rates, the identity, and that predictions are alike."""
    r = result
    return [
        # 24 networks know a mean of kernels to 5 per cent at most.
        near(
            "naive NTK, exponent of the width",
            slope(r.widths, r.naive),
            1,
            atol=0.05,
        ),
        # And a standard deviation to 15 per cent: 0.05 of a slope over four octaves.
        near(
            "improved, exponent of the error",
            slope(r.multipliers, r.error),
            -0.5,
            atol=0.1,
        ),
        near(
            "kernel of each leaf over that of NTK",
            r.ratios,
            r.expected_ratios,
            rtol=1e-12,
        ),
        # Six of 600 test digits.
        near("accuracy, both parameterisations", *r.accuracy, atol=0.01),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """The NTK against the width; its error against the multiplier."""
    r = result
    left.plot(r.widths, r.naive, "o-", label="networks")
    left.plot(
        r.widths, r.naive[-1] * r.widths / r.widths[-1], ":", color=GREY, label="$n$"
    )
    right.plot(r.multipliers, r.error, "o-", label=f"networks of width {BASE} $s$")
    right.plot(
        r.multipliers,
        r.error[-1] * (r.multipliers / r.multipliers[-1]) ** -0.5,
        ":",
        color=GREY,
        label="$s^{-1/2}$",
    )
    title(left, "Naive: no limit", "width $n$", "mean diagonal of the NTK", log="xy")
    title(
        right, "Improved: the limit of base width 16", "$s$", "relative error", log="xy"
    )
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
