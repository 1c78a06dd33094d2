r"""Signals in deep networks approach a fixed point, in order or in chaos.

Variances of random networks approach $q^*$ with depth, and the correlation of two
inputs approaches $c^*$ by a factor $\chi_{c^*}$ for each layer, so that no network much
deeper than $\xi_c = -1 / \log \chi_{c^*}$ tells them apart. With $\chi_1$ the slope at
equal inputs, $c^* = 1$ where $\chi_1 < 1$: order. Where $\chi_1 > 1$, inputs that
nearly coincide part: chaos, in which the length of a curve grows by $\chi_1^{1/2}$ for
each layer.

**Setting.** `Tanh`, $\sigma_b = 0.3$, three weight deviations, networks of infinite
width; 48 networks of 12 layers of width 256 for the variance. Training to find the
depth that is trainable is left out.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from eqtangents import mean_field, nn
from reproductions._laboratory import (
    COLOURS,
    GREY,
    Finding,
    block,
    experiment,
    near,
    panels,
    show,
    title,
)


CLAIM = (
    "Correlations decay by chi at their fixed point; chi_1 = 1 parts order from chaos."
)
SOURCE = "Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017, arXiv:1611.01232"
SETTINGS = {"weight_std": (1.8, 4.0), "bias_std": (0.3, 0.5)}
STDS, LAYERS, WIDTH, NETWORKS, NEAR = (1.3, 2.5, 4.0), 12, 256, 48, 1e-9
LINE = np.linspace(1.05, 4, 60)


class Result(eqx.Module):
    """States by depth for some weight deviations, and the phase line."""

    stds: Float[Array, " stds"]
    ends: mean_field.FixedPoint
    paths: mean_field.SignalState  # from the variance of the fixed point
    close: mean_field.SignalState  # of two inputs that nearly coincide
    curve: Float[Array, "stds correlations"]  # the correlation after one layer
    line: Float[Array, " line"]
    depth_scales: Float[Array, " line"]
    finite: Float[Array, " networks"]  # variances of finite networks
    finite_limit: Float[Array, ""]


def layer(weight_std, bias_std) -> nn.Sequential:
    return block(nn.Tanh(), weight_std**2, bias_std**2)


@eqx.filter_jit
def fixed_points(weight_stds, bias_std) -> mean_field.FixedPoint:
    of = lambda w: mean_field.CorrelationMap(layer(w, bias_std)).fixed_point()
    return jax.vmap(of)(weight_stds)


@eqx.filter_jit
def trajectories(weight_stds, bias_std, q, c) -> mean_field.SignalState:
    def of(w, q) -> mean_field.SignalState:
        one = mean_field.CorrelationMap(layer(w, bias_std))
        return jax.vmap(lambda c: one.trajectory(q, q, c, 100), out_axes=1)(c)

    return jax.vmap(of)(weight_stds, q)


@functools.cache  # They are the same for all settings.
def finite_variances() -> tuple[np.ndarray, np.ndarray]:
    """Mean squares after some layers, from a unit variance on, and their limit."""
    linear = nn.Linear(WIDTH, weight_std=STDS[1], bias_std=0.3)
    repeated = nn.Repeat(nn.Sequential([nn.Tanh(), linear]), LAYERS)

    @eqx.filter_jit
    def squares(keys) -> Float[Array, " networks"]:
        def one(key) -> Float[Array, ""]:
            key_x, key = jr.split(key)
            outputs = repeated.init((WIDTH,), key=key)(jr.normal(key_x, (WIDTH,)))
            return jnp.mean(outputs**2)

        return jax.lax.map(one, keys)

    limit = fixed_points(all_stds(1.8), jnp.asarray(0.3)).q[1]
    with jax.enable_x64(False):
        return np.asarray(squares(jr.split(jr.key(0), NETWORKS)), float), limit


def all_stds(drawn: float) -> Float[Array, " stds_and_line"]:
    return jnp.concatenate([jnp.array([*STDS, drawn]), LINE])


@experiment
def run(
    size: str = "small", *, weight_std: float = 1.8, bias_std: float = 0.3
) -> Result:
    """Find fixed points, and follow signals; both sizes are one."""
    bias_std, count = jnp.asarray(bias_std), len(STDS) + 1
    stds, ends = (
        all_stds(weight_std)[:count],
        fixed_points(all_stds(weight_std), bias_std),
    )
    some = jax.tree.map(lambda x: x[:count], ends)
    starts = jnp.append(jnp.linspace(-0.9, 0.9, 19), jnp.array([0.6, 1 - NEAR]))
    paths = trajectories(stds, bias_std, some.q, starts)
    pick = lambda i: jax.tree.map(lambda x: x[:, :, i], paths)
    finite, limit = finite_variances()
    return Result(
        stds=stds,
        ends=some,
        paths=pick(19),
        close=pick(20),
        curve=paths.c[:, 1, :19],
        line=LINE,
        depth_scales=ends.depth_scales.xi_c[count:],
        finite=finite,
        finite_limit=limit,
    )


def check(result: Result) -> list[Finding]:
    """Assert the rates of decay, the phases, and the variance of finite networks."""
    r = result
    off = np.abs(r.paths.c - r.ends.c[:, None])
    rates = []
    for path in off:
        # The last layers before rounding: the map is linear there up to this distance.
        last = np.flatnonzero(path > 1e-9)[-1]
        rates.append(path[last] / path[last - 1])
    growth = r.close.deficit[:, 1:6] / r.close.deficit[:, :5]
    error = r.finite.std() / NETWORKS**0.5
    return [
        near("decay of correlations, a layer", rates, r.ends.chi_c, rtol=0.01),
        # Lengths go with the root: 1 - c is half a squared distance over q.
        near(
            "growth of 1 - c of close inputs, a layer",
            growth,
            r.ends.chi_1[:, None],
            rtol=1e-4,
        ),
        near("chaos where χ₁ > 1", r.ends.c < 1, r.ends.chi_1 > 1),
        near(
            "variance of finite networks",
            r.finite.mean(),
            r.finite_limit,
            atol=5 * error,
        ),
    ]


@panels
def draw(result: Result, left: Axes, middle: Axes, right: Axes) -> None:
    """The map of correlations, their paths, and depth scales."""
    r = result
    for i, std in enumerate(STDS):
        name = f"$\\sigma_w$ = {std}"
        left.plot(np.linspace(-0.9, 0.9, 19), r.curve[i], label=name)
        left.plot(r.ends.c[i], r.ends.c[i], "o", color=COLOURS[i])
        middle.plot(r.paths.c[i, :41], label=name)
        middle.axhline(r.ends.c[i], color=COLOURS[i], linestyle=":", linewidth=1)
    left.axline((0, 0), slope=1, color=GREY, linewidth=1, zorder=0)
    right.plot(r.line, r.depth_scales)
    right.text(1.05, 30, "order", color=GREY)
    right.text(1.6, 30, "chaos", color=GREY)
    title(left, "One layer", "correlation before", "after")
    title(middle, "Many", "layers", "correlation")
    title(right, "How far signals reach", r"$\sigma_w$", "$\\xi_c$ in layers", log="y")
    left.legend()
    middle.legend()


if __name__ == "__main__":
    show(globals())
