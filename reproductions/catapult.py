r"""Large learning rates catapult a network to where its curvature is lower.

Let $\eta$ be the learning rate and $\lambda_0$ the largest eigenvalue of the NTK at the
start. For $\eta \lambda_0 < 2$ training is lazy. For $2 < \eta \lambda_0 < 4$ the loss
first grows, to the order of the width $n$, until the curvature has fallen below $2 /
\eta$; then it converges. Above 4 it diverges. For the network $f = v \cdot u /
\sqrt{n}$ with loss $f^2 / 2$, all of this follows from two numbers:

$$f' = \Big(1 - \eta \lambda + \frac{\eta^2 f^2}{n}\Big) f, \qquad \lambda' = \lambda +
\frac{\eta f^2}{n} (\eta \lambda - 4).$$

**Setting.** That network at $n = 1024$; and one hidden layer of 256 units of `Relu` on
64 digits, zeros and ones, where rates of 1 and 3 show both phases, and 14 diverges. The
source has deep networks and finds that those of `Relu` survive larger rates than 4; how
much larger is not tested here.
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
    below,
    descend,
    experiment,
    mnist,
    near,
    panels,
    show,
    slope,
    title,
)


CLAIM = "Between 2 / curvature and 4 / curvature, training ends in flatter places."
SOURCE = "Lewkowycz, Bahri, Dyer, Sohl-Dickstein, Gur-Ari 2020, arXiv:2003.02218"
SETTINGS = {"lazy": (0.3, 1.7), "catapult": (2.3, 3.7), "divergent": (4.2, 6.0)}
WIDTH, STEPS, RELU_RATES, DIGITS = 1024, 200, (1.0, 3.0, 14.0), 64


class Result(eqx.Module):
    """Outputs and curvatures by step; rates in units of the inverse first curvature."""

    rates: Float[Array, " rates"]
    f: Float[Array, "rates steps"]
    curvature: Float[Array, "rates steps"]
    eta: Float[Array, " rates"]
    peaks: Float[Array, " widths"]  # of the loss, means over networks
    widths: Float[Array, " widths"]
    relu_losses: Float[Array, "some steps"]
    relu_end: Float[Array, " some"]  # learning rate times curvature


@eqx.filter_jit
def train_two_numbers(rates, width, key) -> tuple[Array, Array, Array]:
    start = jr.normal(key, (2, width))
    output = lambda p: p[0] @ p[1] / width**0.5
    curvature = lambda p: jnp.sum(p**2) / width
    loss, watch = lambda p: output(p) ** 2 / 2, lambda p: (output(p), curvature(p))

    def train(eta) -> tuple[Array, Array]:
        return descend(loss, start, eta, STEPS, watch)[1]

    etas = rates / curvature(start)
    return *jax.vmap(train)(etas), etas


@functools.cache  # They are the same for all settings.
def peaks(widths: tuple[int, ...]) -> Float[np.ndarray, " widths"]:
    def of(width) -> np.ndarray:
        keys = jr.split(jr.key(1), 64)
        f, _, _ = jax.vmap(lambda key: train_two_numbers(jnp.array([3.0]), width, key))(
            keys
        )
        return np.mean(np.max(np.asarray(f) ** 2 / 2, (1, 2)))

    return np.array([of(n) for n in widths])


@functools.cache
def relu() -> tuple[np.ndarray, np.ndarray]:
    digits = mnist(DIGITS, 1, classes=(0, 1))
    with jax.enable_x64(False):
        x = jnp.asarray(digits.x, jnp.float32)
        y = jnp.asarray(2.0 * digits.labels - 1, jnp.float32)
        layers = [nn.Linear(256, weight_std=2**0.5), nn.Relu(), nn.Linear(1)]
        model = nn.Sequential(layers).init((784,), key=jr.key(0))
        params, rest = eqx.partition(model, eqx.is_array)
        outputs = lambda p: jax.vmap(eqx.combine(p, rest))(x)[:, 0]
        loss = lambda p: jnp.mean((outputs(p) - y) ** 2) / 2

        def curvature(p) -> Array:
            ntk = eqt.empirical_ntk(eqx.combine(p, rest), x)
            return jnp.linalg.eigvalsh(ntk)[-1] / DIGITS

        @eqx.filter_jit
        def train(rates) -> tuple[Array, Array]:
            first = curvature(params)

            def one(rate) -> tuple[Array, Array]:
                end, losses = descend(loss, params, rate / first, 150, loss)
                return losses, curvature(end) * rate / first

            return jax.lax.map(one, rates)

        return tuple(np.asarray(v, float) for v in train(jnp.array(RELU_RATES)))


@experiment
def run(
    size: str = "small",
    *,
    lazy: float = 1.0,
    catapult: float = 3.0,
    divergent: float = 4.5,
) -> Result:
    """Train with a rate of each phase; both sizes are one."""
    rates, widths = jnp.array([lazy, catapult, divergent]), (256, 1024, 4096)
    f, curvature, eta = train_two_numbers(rates, WIDTH, jr.key(2))
    losses, end = relu()
    return Result(
        rates, f, curvature, eta, peaks(widths), np.array(widths, float), losses, end
    )


def maps(r: Result) -> tuple[np.ndarray, np.ndarray]:
    """What the two maps make of the outputs and curvatures of each step."""
    eta, f, curvature = r.eta[:, None], r.f, r.curvature
    with np.errstate(over="ignore", invalid="ignore"):  # of what diverges
        after = (1 - eta * curvature + eta**2 * f**2 / WIDTH) * f
        return after, curvature + eta * f**2 / WIDTH * (eta * curvature - 4)


def check(result: Result) -> list[Finding]:
    """Assert the maps, and the phases."""
    r = result
    # While squares neither vanish nor overflow; f is a sum of 1,024 products.
    known = (np.abs(r.f) > 1e-6) & (np.abs(r.f) < 1e6)
    known = (known[:, 1:] & known[:, :-1]).nonzero()
    pairs = [
        (seen[:, 1:][known], expected[:, :-1][known])
        for seen, expected in zip((r.f, r.curvature), maps(r), strict=True)
    ]
    lazy, catapult, divergent = np.minimum(np.abs(r.f), 1e100) ** 2 / 2
    ends = r.eta[:2] * r.curvature[:2, -1]
    return [
        near("f after a step, network and map", *pairs[0], rtol=1e-11, atol=1e-13),
        near("curvature after a step, network and map", *pairs[1], rtol=1e-11),
        # Lazy curvatures move by f^2 / n.
        near("lazy: ηλ at the end", ends[0], r.rates[0], rtol=0.02),
        below("lazy: largest loss over first", lazy.max() / lazy[0], 1 + 1e-12),
        above("catapult: largest loss over first", catapult.max() / catapult[0], 5),
        below("catapult: ηλ at the end", ends[1], 2),
        below("catapult: loss at the end", catapult[-1], 1e-6),
        above(
            "divergent: largest loss", np.nan_to_num(divergent, nan=np.inf).max(), 1e12
        ),
        # Peaks oscillate by the phase at which they are met, about 20 per cent.
        near("peak of the loss, exponent of n", slope(r.widths, r.peaks), 1, atol=0.1),
        above(
            "Relu at 3: largest loss over first",
            r.relu_losses[1].max() / r.relu_losses[1, 0],
            2,
        ),
        below("Relu at 1 and 3: ηλ at the end", r.relu_end[:2], 2),
        below(
            "Relu at 1 and 3: last loss over first",
            r.relu_losses[:2, -1] / r.relu_losses[:2, 0],
            0.1,
        ),
        above(
            "Relu at 14: largest loss",
            np.nan_to_num(r.relu_losses[2], nan=np.inf).max(),
            1e6,
        ),
    ]


@panels
def draw(result: Result, left: Axes, middle: Axes, right: Axes) -> None:
    """Losses and curvatures against steps."""
    r = result
    shown = lambda losses: np.where(losses[:60] < 1e9, losses[:60], np.nan)
    for rate, f, curvature, eta in zip(r.rates, r.f, r.curvature, r.eta, strict=True):
        left.plot(
            shown(np.minimum(np.abs(f), 1e10) ** 2 / 2),
            label=f"$\\eta \\lambda_0$ = {rate:.1f}",
        )
        middle.plot(shown(eta * curvature))
    middle.axhline(2, color=GREY, linestyle=":")
    for rate, losses in zip(RELU_RATES, r.relu_losses, strict=True):
        right.plot(shown(losses), label=f"$\\eta \\lambda_0$ = {rate:.0f}")
    title(left, "Two layers, one example", "step", "loss", log="y")
    title(middle, "Their curvature", "step", r"$\eta \lambda$")
    title(right, "Relu on digits", "step", "loss", log="y")
    left.set_ylim(1e-10, 1e5)
    middle.set_ylim(0, 6)
    right.set_ylim(1e-4, 1e5)
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
