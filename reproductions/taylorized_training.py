r"""Taylor polynomials of a network stay close to it in training, high orders longer.

The Taylor polynomial of order $k$ in the parameters, trained as the network is, differs
from it by $O(m^{-k/2})$ at width $m$. The first order is the linearised network.

**Setting.** Two hidden layers of `Erf`, 12 points in five dimensions, 60 steps of
gradient descent, widths 64 and 512, twelve networks of each. As `Erf` is odd, the
second order gains nothing over the first, and the third has the rate of the fourth. The
source trains convolutional networks on CIFAR-10.
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
    GREY,
    Finding,
    above,
    below,
    descend,
    experiment,
    panels,
    show,
    slope,
    title,
)


CLAIM = "Training of the Taylor polynomial of order k is off by m^(-k/2) at width m."
SOURCE = "Bai, Krause, Wang, Xiong, Socher 2020, arXiv:2002.04010"
POINTS, STEPS, SEEDS, RATE, ORDERS = 12, 60, 12, 0.1, (1, 2, 3)


class Result(eqx.Module):
    """Distances of the outputs, at the end and along training."""

    widths: Float[Array, " widths"]
    gaps: Float[Array, "widths orders"]
    paths: Float[Array, "orders steps"]  # of the widest
    moved: Float[Array, ""]  # how far its outputs moved


@eqx.filter_jit
def gaps(width) -> tuple[Array, Array]:
    """Squared distances of polynomials to the network, by order and step."""
    key_x, key_y, key = jr.split(jr.key(0), 3)
    x, y = jr.normal(key_x, (POINTS, 5)), jr.normal(key_y, (POINTS, 1))
    hidden = lambda: nn.Linear(width, weight_std=1.2, bias_std=0.1)
    net = nn.Sequential([hidden(), nn.Erf(), hidden(), nn.Erf(), nn.Linear(1)])

    def path(model) -> Float[Array, "steps points"]:
        params, rest = eqx.partition(model, eqx.is_inexact_array)
        outputs = lambda params: jax.vmap(eqx.combine(params, rest))(x)
        loss = lambda params: jnp.mean((outputs(params) - y) ** 2) / 2
        return descend(loss, params, RATE, STEPS, outputs)[1][..., 0]

    def one(key) -> tuple[Array, Array]:
        model = net.init((5,), key=key)
        network = path(model)
        off = [path(eqt.taylorize(model, k)) - network for k in ORDERS]
        squares = jnp.mean(jnp.stack(off) ** 2, -1)
        return squares, jnp.mean((network[-1] - network[0]) ** 2)

    squares, moved = jax.lax.map(one, jr.split(key, SEEDS))
    # The typical network: means would be those of a few that move far.
    return jnp.sqrt(jnp.median(squares, 0)), jnp.sqrt(jnp.median(moved))


@experiment
def run(size: str = "small") -> Result:
    """Train networks and polynomials."""
    widths = (64, 512) if size == "small" else (32, 64, 128, 256, 512)
    found = [gaps(n) for n in widths]
    paths = np.stack([path for path, _ in found])
    return Result(np.array(widths, float), paths[:, :, -1], paths[-1], found[-1][1])


def check(result: Result) -> list[Finding]:
    """Assert the rates, and that higher orders follow longer."""
    r = result
    slopes = [slope(r.widths, r.gaps[:, i]) for i in range(len(ORDERS))]
    # Steps until the distance is a thousandth of the way that outputs move.
    times = [np.sum(path < 1e-3 * r.moved) for path in r.paths]
    return [
        # Twelve networks know a gap to 25 per cent: 0.1 of a slope over three octaves.
        *(
            below(f"order {k}, exponent of the width", s, -k / 2 + 0.15)
            for k, s in zip(ORDERS, slopes, strict=True)
        ),
        below(
            "gap of order 3 over that of order 1", r.gaps[-1, 2] / r.gaps[-1, 0], 0.2
        ),
        above(
            "steps until a gap of 0.1 %, order 3 less order 1", times[2] - times[0], 0
        ),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Distances against width, and along training."""
    r = result
    for i, k in enumerate(ORDERS):
        left.plot(r.widths, r.gaps[:, i], "o-", label=f"order {k}")
        right.plot(np.arange(1, STEPS), r.paths[i, 1:], label=f"order {k}")
    for power, i in ((-1, 0), (-2, 2)):
        line = 0.6 * r.gaps[0, i] * (r.widths / r.widths[0]) ** power
        left.plot(r.widths, line, ":", color=GREY, label=f"$m^{{{power}}}$")
    title(
        left, f"After {STEPS} steps", "width $m$", "distance to the network", log="xy"
    )
    title(
        right, f"Width {r.widths[-1]:.0f}", "step", "distance to the network", log="y"
    )
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
