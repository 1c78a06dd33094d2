r"""The condition number of the NTK tells whether deep networks train.

With depth $l$ the spectrum of the NTK $\Theta$ of $m$ inputs depends on the phase. In
chaos its condition number $\kappa$ goes to one, while what the mean prediction learns
from centred targets vanishes as $l\, (\chi_{c^*} / \chi_1)^l$: deep networks train and
do not generalise. In order $\kappa$ grows as $1 / l \chi_1^l$: they do not train. On
the critical line $\kappa$ approaches $(m + 2) / 2$, as off-diagonal entries become a
third of the diagonal.

**Setting.** 12 inputs of norm $\sqrt{20}$ in 20 dimensions, `Erf`; critical for
$\sigma_b^2 = 0.18$, where the weight variance is found by a root, chaotic at $(3,
0.05)$, ordered at $(1, 0.18)$. The source's accuracies on CIFAR-10 are left out.
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
from eqtangents import mean_field, nn
from reproductions._laboratory import (
    GREY,
    Finding,
    above,
    block,
    experiment,
    near,
    on_sphere,
    panels,
    show,
    title,
)


CLAIM = "The NTK's condition number decides whether deep networks train."
SOURCE = "Xiao, Pennington, Schoenholz 2020, arXiv:1912.13053"
SETTINGS = {"chaotic_variance": (2.5, 4.0), "ordered_variance": (0.8, 1.1)}
INPUTS, TESTS, DEEPEST = 12, 6, 10_000


class Phase(eqx.Module):
    """Spectra by depth, and slopes of the correlation map."""

    depths: Float[Array, " depths"]
    condition: Float[Array, " depths"]
    largest: Float[Array, " depths"]
    ratio: Float[Array, " depths"]  # off-diagonal over diagonal
    prediction: Float[Array, " depths"]  # its norm for test inputs
    chi_1: Float[Array, ""]
    chi_c: Float[Array, ""]


class Result(eqx.Module):
    """The three phases."""

    chaos: Phase
    order: Phase
    critical: Phase


@eqx.filter_jit
def phase(one, depths, deepest) -> Phase:
    x = on_sphere(jr.key(0), INPUTS + TESTS, 20)
    targets = jr.normal(jr.key(1), (INPUTS,))
    targets -= targets.mean()

    def at(depth) -> tuple[Array, ...]:
        net = nn.Sequential([nn.Linear(1), nn.Repeat(one, deepest, depth=depth)])
        both = eqt.ntk(net, x[:INPUTS]), eqt.ntk(net, x[INPUTS:], x[:INPUTS])
        train, test = both
        values = jnp.linalg.eigvalsh(train)
        diagonal = jnp.trace(train)
        ratio = (train.sum() - diagonal) / diagonal / (INPUTS - 1)
        prediction = jnp.linalg.norm(test @ jnp.linalg.solve(train, targets))
        return values[-1] / values[0], values[-1], ratio, prediction

    end = mean_field.CorrelationMap(one).fixed_point()
    return Phase(depths.astype(float), *jax.lax.map(at, depths), end.chi_1, end.chi_c)


@functools.cache  # It is the same for all settings.
def critical() -> Phase:
    weights = mean_field.critical(lambda w: block(nn.Erf(), w, 0.18), (1.0, 3.0))
    depths = jnp.array([100, 300, 1000, 3000, DEEPEST])
    return phase(block(nn.Erf(), weights, jnp.asarray(0.18)), depths, DEEPEST)


@experiment
def run(
    size: str = "small",
    *,
    chaotic_variance: float = 3.0,
    ordered_variance: float = 1.0,
) -> Result:
    """Compute kernels in the three phases; both sizes are one."""
    depths = jnp.arange(5, 61, 5)
    of = lambda w, b: phase(block(nn.Erf(), jnp.asarray(w), jnp.asarray(b)), depths, 60)
    return Result(of(chaotic_variance, 0.05), of(ordered_variance, 0.18), critical())


def check(result: Result) -> list[Finding]:
    """Assert limits and rates of each phase."""
    chaos, order, critical = result.chaos, result.order, result.critical
    limit = (INPUTS + 2) / 2
    late = (chaos.depths >= 30) & (chaos.depths <= 50)
    rate = lambda values: np.polyfit(chaos.depths[late], np.log(values[late]), 1)[0]
    return [
        # Errors at 10,000 layers are about 4e-4, half of log L / L.
        near("critical, off-diagonal ratio", critical.ratio[-1], 1 / 3, atol=1e-3),
        near("critical, condition number", critical.condition[-1], limit, rtol=3e-3),
        above(
            "critical, fall of its error from 1,000 to 10,000 layers",
            (critical.condition[2] - limit) / (critical.condition[-1] - limit),
            3.5,
        ),
        # Factors that are powers of the depth, or fall like its inverse, remain.
        near(
            "chaos, rate of the NTK",
            rate(chaos.largest),
            np.log(chaos.chi_1),
            rtol=0.02,
        ),
        near("chaos, condition number", chaos.condition[-1], 1, atol=1e-3),
        near(
            "chaos, rate of the prediction over depth",
            rate(chaos.prediction / chaos.depths),
            np.log(chaos.chi_c / chaos.chi_1),
            rtol=0.03,
        ),
        near(
            "order, rate of the condition number times depth",
            rate(order.condition * order.depths),
            -np.log(order.chi_1),
            rtol=0.02,
        ),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Condition numbers and mean predictions against depth."""
    r = result
    for name in ("chaos", "order"):
        phase = getattr(r, name)
        left.plot(phase.depths, phase.condition, "o-", label=name, markersize=4)
        right.plot(phase.depths, phase.prediction, "o-", label=name, markersize=4)
    left.plot(
        r.critical.depths, r.critical.condition, "o-", label="critical", markersize=4
    )
    left.axhline((INPUTS + 2) / 2, color=GREY, linestyle=":", label="$(m + 2) / 2$")
    ratio = r.chaos.chi_c / r.chaos.chi_1
    line = r.chaos.depths * ratio**r.chaos.depths
    line *= r.chaos.prediction[-1] / line[-1]
    right.plot(r.chaos.depths, line, ":", color=GREY, label=r"$l (\chi_c / \chi_1)^l$")
    title(left, "Does it train?", "layers", "condition number", log="xy")
    title(right, "Does it generalise?", "layers", "norm of the prediction", log="y")
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
