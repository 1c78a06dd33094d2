r"""Recurrent networks have a limit of their own, as weights are shared in time.

At the last state the kernel is that of a network whose weights differ from step to
step. Where states of all times are summed, states at different times are correlated by
the weights that they share, and it is not.

**Setting.** $h_t = \operatorname{erf}(A h_{t-1} + B x_t)$ over three steps, three
sequences in three dimensions; networks of width 512 against the limit, 24 of each. The
kernel without sharing is written out. The source has any architecture.
"""

import functools

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import nn
from reproductions._laboratory import (
    COLOURS,
    GREY,
    Finding,
    above,
    experiment,
    near,
    panels,
    show,
    title,
)


CLAIM = "Weights shared in time show in the limit where states of several times add up."
SOURCE = "Yang 2019, arXiv:1902.04760 and 1910.12478"
SETTINGS = {"weight_std": (0.7, 2.0), "bias_std": (0.1, 0.8)}
STEPS, SEQUENCES, DIM, WIDTH, NETWORKS, OUTPUTS = 3, 3, 3, 512, 24, 16


class Result(eqx.Module):
    """Kernels of the last state and of the sum of all."""

    last: eqt.Kernel
    summed: eqt.Kernel
    untied_last: Float[Array, "n n"]
    untied_summed: Float[Array, "n n"]
    sampled: dict[str, eqt.Estimate]
    limits: dict[str, eqt.Kernel]  # with the same settings as the sampled ones


def network(readout, width, *, weight_std=1.3, bias_std=0.2) -> nn.Sequential:
    hidden = nn.Linear(width, weight_std=weight_std, bias_std=bias_std)
    recurrent = nn.Recurrent(hidden, nn.Linear(width), nn.Erf())
    return nn.Sequential([recurrent, readout, nn.Linear(OUTPUTS)])


def sequences() -> Float[Array, "n 3 3"]:
    return jr.normal(jr.key(0), (SEQUENCES, DIM, STEPS))


@eqx.filter_jit
def kernel(readout, x, weight_std, bias_std) -> eqt.Kernel:
    return eqt.kernel(network(readout, 1, weight_std=weight_std, bias_std=bias_std), x)


def untied(x, weight_std, bias_std) -> Float[np.ndarray, "steps n n"]:
    """The kernels of the states at each time, of weights that are not shared."""
    k, found = np.zeros((len(x),) * 2), []
    for t in range(STEPS):
        q = weight_std**2 * k + bias_std**2 + x[:, :, t] @ x[:, :, t].T / DIM
        scale = np.sqrt(1 + 2 * np.diag(q))
        k = 2 / np.pi * np.arcsin(2 * q / np.outer(scale, scale))
        found.append(k)
    return np.stack(found)


@functools.cache  # They are the same for all settings.
def of_networks() -> tuple[dict, dict]:
    sampled, limits = {}, {}
    for name, readout in READOUTS.items():
        net = network(readout, WIDTH)
        sampled[name] = eqt.monte_carlo(net, sequences(), None, jr.key(1), NETWORKS)
        limits[name] = eqt.kernel(net, sequences())
    return sampled, limits


READOUTS = {"last": nn.Last(), "summed": nn.GlobalSumPool()}


@experiment
def run(
    size: str = "small", *, weight_std: float = 1.3, bias_std: float = 0.2
) -> Result:
    """Compare the limit, networks, and weights of their own; both sizes are one."""
    x = sequences()
    stds = jnp.asarray(weight_std), jnp.asarray(bias_std)
    states = untied(np.asarray(x), weight_std, bias_std)
    sampled, limits = of_networks()
    return Result(
        last=kernel(READOUTS["last"], x, *stds),
        summed=kernel(READOUTS["summed"], x, *stds),
        untied_last=states[-1],
        # States of different times are odd functions of independent weights.
        untied_summed=states.sum(0),
        sampled=sampled,
        limits=limits,
    )


def check(result: Result) -> list[Finding]:
    """Assert where sharing shows, and that networks approach the limit."""
    r = result
    findings = [
        near(
            "last state: shared weights and others",
            r.last.nngp,
            r.untied_last,
            atol=1e-12,
        ),
        above(
            "sum of states: largest relative difference",
            np.abs(r.summed.nngp / r.untied_summed - 1).max(),
            0.05,
        ),
    ]
    for name, estimate in r.sampled.items():
        for kind in ("nngp", "ntk"):
            mean, error = (
                getattr(v, kind) for v in (estimate.mean, estimate.standard_error)
            )
            limit = getattr(r.limits[name], kind)
            # At width 512 the mean itself is off by about a hundredth.
            allowed = 5 * error + 0.01 * np.abs(limit).max()
            off = (mean - limit) / allowed
            claim = f"{name}, {kind}: networks less limit, over what is allowed"
            findings.append(near(claim, off, 0, atol=1))
    return findings


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Kernels with shared weights against others, and against networks."""
    r = result
    pairs = {
        "last state": (r.untied_last, r.last),
        "sum of states": (r.untied_summed, r.summed),
    }
    for (name, (other, shared)), colour in zip(pairs.items(), COLOURS, strict=False):
        left.plot(other.ravel(), shared.nngp.ravel(), "o", color=colour, label=name)
    for name, colour in zip(r.sampled, COLOURS, strict=False):
        for kind, marker in (("nngp", "o"), ("ntk", "^")):
            limit = getattr(r.limits[name], kind).ravel()
            mean, error = (
                getattr(v, kind).ravel()
                for v in (r.sampled[name].mean, r.sampled[name].standard_error)
            )
            right.errorbar(
                limit,
                mean,
                2 * error,
                fmt=marker,
                color=colour,
                label=f"{name}, {kind.upper()}",
            )
    for axes in (left, right):
        axes.axline((0, 0), slope=1, color=GREY, linewidth=1, zorder=0)
        axes.legend()
    title(left, "NNGP kernels", "weights of their own", "shared weights")
    title(right, f"Networks of width {WIDTH}", "limit", "networks, two standard errors")


if __name__ == "__main__":
    show(globals())
