r"""At the edge of chaos the NTK forgets its inputs slowly, elsewhere at once.

With depth $L$, the NTK of a fully-connected network approaches a kernel that knows of
inputs no more than whether they are equal. In the ordered phase it does so
exponentially. At the edge of chaos it takes the rate $\log L / L$: what is off the
diagonal becomes a quarter of what is on it for `Relu`, a third for smooth functions.
Residual networks of `Relu` approach theirs by a power of $L$ whatever the variance of
their weights is.

**Setting.** 12 random inputs in 20 dimensions, all of norm $\sqrt{20}$; up to 10,000
layers, as in the paper's theory. The critical weight variance of `Erf` is found by a
root, as its digits limit the depth to which it is critical. The paper's training runs
on images are left out.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import mean_field, nn
from reproductions._laboratory import (
    GREY,
    Finding,
    block,
    experiment,
    near,
    on_sphere,
    panels,
    show,
    slope,
    title,
)


CLAIM = "At the edge of chaos kernels approach their limit as log L / L."
SOURCE = "Hayou, Doucet, Rousseau 2019, arXiv:1905.13654"
SETTINGS = {"bias_variance": (0.05, 0.5), "branch_variance": (1.0, 2.0)}
INPUTS = 12
DEPTHS = np.array([10, 30, 100, 300, 1000, 3000, 10000])


class Result(eqx.Module):
    """Off-diagonal over diagonal entries of NTKs, by depth."""

    depths: Float[Array, " depths"]
    relu: Float[Array, " depths"]
    erf: Float[Array, " depths"]
    ordered: Float[Array, " depths"]
    residual: Float[Array, " depths"]
    condition: Float[Array, " depths"]  # of the critical `Relu`
    angle: Float[Array, " depths"]  # (1 - c) L^2 of it
    chi_1: Float[Array, ""]  # of the ordered network


@eqx.filter_jit
def kernels(layer, x, depths) -> eqt.Kernel:
    at_depth = lambda depth: eqt.kernel(
        nn.Sequential([nn.Linear(1), nn.Repeat(layer, int(DEPTHS[-1]), depth=depth)]), x
    )
    return jax.lax.map(at_depth, depths)


def ratio(k: Float[Array, "depths n n"]) -> Float[Array, " depths"]:
    diagonal = jnp.trace(k, axis1=1, axis2=2)
    return (k.sum((1, 2)) - diagonal) / diagonal / (INPUTS - 1)


@eqx.filter_jit
def critical_variance(bias_variance: Float[Array, ""]) -> Float[Array, ""]:
    return mean_field.critical(lambda w: block(nn.Erf(), w, bias_variance), (0.8, 4.0))


@experiment
def run(
    size: str = "small", *, bias_variance: float = 0.18, branch_variance: float = 1.0
) -> Result:
    """Compute kernels at some depths; both sizes are one."""
    bias_variance = jnp.asarray(bias_variance)
    x, depths = on_sphere(jr.key(0), INPUTS, 20), jnp.asarray(DEPTHS)
    relu = kernels(block(nn.Relu(), 2.0), x, depths)
    weights = critical_variance(bias_variance)
    erf = kernels(block(nn.Erf(), weights, bias_variance), x, depths)
    calm = block(nn.Erf(), 0.6 * weights, bias_variance)
    branch = block(nn.Relu(), branch_variance)
    values = jnp.linalg.eigvalsh(relu.ntk)
    return Result(
        depths=depths.astype(float),
        relu=ratio(relu.ntk),
        erf=ratio(erf.ntk),
        ordered=ratio(kernels(calm, x, depths).ntk),
        residual=ratio(kernels(nn.Residual(branch), x, depths).ntk),
        condition=values[:, -1] / values[:, 0],
        angle=(1 - ratio(relu.nngp)) * depths.astype(float) ** 2,
        chi_1=mean_field.CorrelationMap(calm).fixed_point().chi_1,
    )


def check(result: Result) -> list[Finding]:
    """Assert limits and rates."""
    r, last = result, slice(4, None, 2)  # depths 1,000 and 10,000
    # The exponent that log L / L has over a decade; the next order is smaller by log L.
    rate = lambda depths: slope(depths, np.log(depths) / depths)
    off = lambda part, limit, values: slope(
        r.depths[part], np.abs(values[part] - limit)
    )
    wide, narrow = slice(2, 5, 2), slice(1, 3)  # 100 and 1,000; 30 and 100
    growth = np.log(r.depths[narrow]) + r.depths[narrow] * np.log(r.chi_1)
    forgets = np.diff(np.log(1 - r.ordered[narrow])) / np.diff(growth)
    return [
        # Errors at 10,000 layers are about 5e-4, half of log L / L.
        near("critical `Relu`, off-diagonal ratio", r.relu[-1], 1 / 4, atol=1e-3),
        near("critical `Erf`, off-diagonal ratio", r.erf[-1], 1 / 3, atol=1e-3),
        near(
            "`Relu`, exponent", off(last, 1 / 4, r.relu), rate(r.depths[last]), atol=0.1
        ),
        near(
            "`Erf`, exponent", off(last, 1 / 3, r.erf), rate(r.depths[last]), atol=0.1
        ),
        near("condition number", r.condition[-1], (INPUTS + 3) / 3, rtol=5e-3),
        near("(1 - c) L²", r.angle[-1], 4.5 * np.pi**2, rtol=1e-2),
        # The factor in front of L chi^L has corrections of 1 / L.
        near("ordered, rate over that of L χ^L", forgets, 1, atol=0.03),
        near(
            "residual `Relu`, exponent",
            off(wide, 1 / 4, r.residual),
            rate(r.depths[wide]),
            atol=0.12,
        ),
    ]


@panels
def draw(result: Result, axes: Axes) -> None:
    """Distances to the limits against depth."""
    r, finite = result, slice(0, 5)
    axes.plot(r.depths, r.relu - 1 / 4, "o-", label="critical, Relu")
    axes.plot(r.depths, 1 / 3 - r.erf, "s-", label="critical, Erf")
    axes.plot(
        r.depths[finite], r.residual[finite] - 1 / 4, "^-", label="residual, Relu"
    )
    axes.plot(r.depths[:3], 1 - r.ordered[:3], "v-", label="ordered, Erf")
    line = 0.46 * np.log(r.depths) / r.depths
    axes.plot(r.depths, line, ":", color=GREY, label=r"$\propto \log L / L$", zorder=0)
    title(
        axes,
        "Distance of the NTK to its limit",
        "layers",
        "|off-diagonal ratio - limit|",
        log="xy",
    )
    axes.set_ylim(1e-5, 1)
    axes.legend()


if __name__ == "__main__":
    show(globals())
