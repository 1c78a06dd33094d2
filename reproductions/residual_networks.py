r"""Residual networks forget their inputs polynomially, plain ones exponentially.

Let a block add $W \phi(x)$ to its input. With `Tanh`, variances grow as the depth $l$,
and the correlation of two signals approaches its end as a power of $l$: for large
variances `Tanh` is a sign, of dual $\frac{2}{\pi} \arcsin c$, so that without biases $c
\sim l^{-(1 - 2 / \pi)}$. With `Relu`, variances grow by a factor $1 + \sigma_w^2 / 2$
for each block, and $1 - c$ falls as $9 \pi^2 / 2 a^2 l^2$ with $a = \sigma_w^2 / (2 +
\sigma_w^2)$. In plain networks $c$ approaches its end exponentially.

**Setting.** Two inputs, up to 8,192 blocks, no biases; the exponents are those of the
limit, derived as above from the source's recursions. Its gradients, and its experiments
on MNIST, are left out.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from eqtangents import mean_field, nn
from reproductions._laboratory import (
    GREY,
    Finding,
    block,
    experiment,
    near,
    panels,
    show,
    slope,
    title,
)


CLAIM = "Residual networks forget by a power of the depth, plain ones exponentially."
SOURCE = "Yang, Schoenholz 2017, arXiv:1712.08969"
SETTINGS = {"weight_variance": (0.5, 1.0), "c": (0.2, 0.8)}


class Result(eqx.Module):
    """Variances and correlations by depth, from 0 on."""

    tanh: mean_field.SignalState
    erf: mean_field.SignalState
    relu: mean_field.SignalState
    plain: mean_field.SignalState
    weight_variance: Float[Array, ""]
    chi_c: Float[Array, ""]  # of the plain network


@eqx.filter_jit
def states(one, c, n) -> mean_field.SignalState:
    return mean_field.CorrelationMap(one).trajectory(1.0, 1.0, c, n)


@experiment
def run(size: str = "small", *, weight_variance: float = 0.8, c: float = 0.6) -> Result:
    """Follow signals through all blocks; both sizes are one."""
    c, variance = jnp.asarray(c), jnp.asarray(weight_variance)
    residual = lambda phi: nn.Residual(block(phi, variance))
    plain = block(nn.Erf(), variance, 0.2)
    return Result(
        # The expansion of `Tanh` ends at variances of 800; `Erf` has a closed form.
        tanh=states(residual(nn.Tanh()), c, 512),
        erf=states(residual(nn.Erf()), c, 8192),
        relu=states(residual(nn.Relu()), c, 1024),
        plain=states(plain, c, 40),
        weight_variance=variance,
        chi_c=mean_field.CorrelationMap(plain).fixed_point().chi_c,
    )


def check(result: Result) -> list[Finding]:
    """Assert the growth of variances and the decay of correlations."""
    r, late, earlier = result, 2 ** np.arange(9, 14), 2 ** np.arange(6, 10)
    inverse = np.diff(1 / np.sqrt(r.relu.deficit))[-1]
    share = r.weight_variance / (2 + r.weight_variance)
    growth = np.diff(np.log(r.relu.q1))
    forgets = np.diff(np.log(r.plain.deficit[10:20]))
    limit = -(1 - 2 / np.pi)
    return [
        # Functions saturate where variances are large: corrections of q^(-1/2).
        near("`Erf`, exponent of q", slope(late, r.erf.q1[late]), 1, atol=0.05),
        near("`Erf`, exponent of c", slope(late, r.erf.c[late]), limit, atol=0.02),
        near("`Tanh`, exponent of q", slope(earlier, r.tanh.q1[earlier]), 1, atol=0.1),
        near(
            "`Tanh`, exponent of c", slope(earlier, r.tanh.c[earlier]), limit, atol=0.06
        ),
        near(
            "`Relu`, growth of log q",
            growth,
            np.log(1 + r.weight_variance / 2),
            rtol=1e-12,
        ),
        # d (1 - c)^(-1/2) / dl, up to the square root of 1 - c: 0.02 at 1,024 blocks.
        near(
            "`Relu`, growth of (1 - c)^(-1/2)",
            inverse,
            share * 2**0.5 / (3 * np.pi),
            rtol=0.03,
        ),
        # 1 - c is down to 1e-2 and less of its start: the map is linear that far.
        near("plain `Erf`, decay of log (1 - c)", forgets, np.log(r.chi_c), rtol=1e-2),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Variances, and distances of correlations to their end."""
    r = result
    for name, end in {"erf": 0, "tanh": 0, "relu": 1, "plain": 1}.items():
        signal = getattr(r, name)
        label = "plain Erf" if name == "plain" else f"residual {name.title()}"
        depth = np.arange(1, len(signal.c))
        left.plot(depth, signal.q1[1:], label=label)
        right.plot(
            depth, np.abs(signal.c - end)[1:] if end == 0 else signal.deficit[1:]
        )
    depth = 2.0 ** np.arange(6, 14)
    line = r.erf.c[-1] * (depth / depth[-1]) ** -(1 - 2 / np.pi)
    right.plot(depth, 1.25 * line, ":", color=GREY, label=r"$l^{-(1 - 2/\pi)}$")
    title(left, "Variances", "blocks $l$", "$q$", log="xy")
    title(right, "Correlations", "blocks $l$", "distance of $c$ to its end", log="xy")
    left.set_ylim(0.1, 1e5)
    right.set_ylim(1e-9, 2)
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
