r"""The tangent kernel of a wide network is nearly fixed, at the start and in training.

Kernels $\Theta(x_0, \cdot)$ of networks of width $n$ scatter around the limit by
$n^{-1/2}$, and move by less than that while the network is trained, in proportion to $1
/ n$. With the kernel of the limit, errors along its eigenvectors fall as $e^{- \lambda
t / N}$.

**Setting.** 16 points of a circle, three hidden layers of `Relu`, networks of widths up
to 512 (1,024 on the page), 48 of each, of which 6 are trained for 50
steps of gradient descent on the target $x_1 x_2$.
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
from eqtangents import nn, predict
from reproductions._laboratory import (
    BLUE,
    GREY,
    ORANGE,
    Finding,
    below,
    descend,
    experiment,
    near,
    panels,
    show,
    slope,
    title,
)


CLAIM = "Tangent kernels scatter by n^(-1/2) and move in training by 1/n."
SOURCE = "Jacot, Gabriel, Hongler 2018, arXiv:1806.07572"
SETTINGS = {"bias_std": (0.05, 0.5), "time": (0.5, 50.0)}
POINTS, SEEDS, TRAINED, STEPS, RATE = 16, 48, 6, 50, 1.0


class Result(eqx.Module):
    """Kernels of one point with the circle; errors along eigenvectors."""

    widths: Float[Array, " widths"]
    before: Float[Array, "widths seeds points"]
    after: Float[Array, "widths few points"]
    limit: Float[Array, " points"]
    left: Float[Array, "points points"]
    decays: Float[Array, " points"]


def network(width, bias_std=0.1) -> nn.Sequential:
    hidden = lambda: nn.Linear(width, weight_std=2**0.5, bias_std=bias_std)
    layers = [hidden(), nn.Relu(), hidden(), nn.Relu(), hidden(), nn.Relu()]
    return nn.Sequential([*layers, nn.Linear(1)])


def circle() -> tuple[Float[Array, "points 2"], Float[Array, " points"]]:
    angle = jnp.linspace(0, 2 * jnp.pi, POINTS, endpoint=False)
    x = 2**0.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    return x, x[:, 0] * x[:, 1]


@eqx.filter_jit
def of_networks(
    width,
) -> tuple[Float[Array, "seeds points"], Float[Array, "few points"]]:
    x, y = circle()
    ntk = lambda model: eqt.empirical_ntk(model, x[:1], x)[0]
    make = lambda key: network(width).init((2,), key=key)

    def after_training(key) -> Float[Array, " points"]:
        params, rest = eqx.partition(make(key), eqx.is_array)
        outputs = lambda params: jax.vmap(eqx.combine(params, rest))(x)[:, 0]
        loss = lambda params: jnp.mean((outputs(params) - y) ** 2) / 2
        trained, _ = descend(loss, params, RATE, STEPS, lambda _: None)
        return ntk(eqx.combine(trained, rest))

    keys = jr.split(jr.key(0), SEEDS)
    before = jax.lax.map(lambda key: ntk(make(key)), keys)
    return before, jax.lax.map(after_training, keys[:TRAINED])


@functools.cache  # They are the same for all settings.
def finite(widths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    with jax.enable_x64(False):
        kernels = [of_networks(n) for n in widths]
    return tuple(np.asarray(k, float) for k in zip(*kernels, strict=True))


@experiment
def run(size: str = "small", *, bias_std: float = 0.1, time: float = 5.0) -> Result:
    """Train networks, and follow the limit along its eigenvectors to a time."""
    widths = (32, 128, 512) if size == "small" else (64, 256, 1024)
    (before, after), x = finite(widths), circle()[0]
    limit = eqt.ntk(network(1, jnp.asarray(bias_std)), x)
    values, vectors = jnp.linalg.eigh(limit)
    training = predict.GradientDescentMSE(limit, vectors)
    left = vectors.T @ (vectors - training.train_outputs(time * POINTS))
    return Result(
        widths=np.array(widths, float),
        before=before,
        after=after,
        limit=eqt.ntk(network(1), x[:1], x)[0],
        left=left,
        # The loss is a mean over all outputs: `POINTS` targets for each of them.
        decays=jnp.exp(-values * time / POINTS),
    )


def spread_and_drift(r: Result) -> tuple[np.ndarray, np.ndarray]:
    """Root mean squares over networks and points, relative to the limit."""
    rms = lambda k: np.sqrt(np.mean(k**2, (1, 2))) / r.limit[0]
    spread = rms(r.before - r.before.mean(1, keepdims=True))
    return spread, rms(r.after - r.before[:, :TRAINED])


def check(result: Result) -> list[Finding]:
    """Assert the rates, and the decay along eigenvectors."""
    r = result
    spread, drift = spread_and_drift(r)
    return [
        # 48 networks know a standard deviation to 15 per cent or so, as kernels of
        # narrow networks have long tails: 0.05 of a slope over four octaves.
        near("spread, exponent", slope(r.widths, spread), -0.5, atol=0.12),
        # Narrow networks have not got there; the bound tells it from -0.5.
        below("drift, exponent", slope(r.widths, drift), -0.75),
        below("drift over spread at the largest width", drift[-1] / spread[-1], 1),
        near("errors along eigenvectors", r.left, np.diag(r.decays), atol=1e-12),
    ]


@panels
def draw(result: Result, left: Axes, middle: Axes, right: Axes) -> None:
    """Kernels over the circle; spread and drift; decays."""
    r = result
    angle = np.linspace(0, 360, POINTS, endpoint=False)
    for i, colour in ((0, ORANGE), (-1, BLUE)):
        left.plot(angle, r.before[i, :10].T, color=colour, linewidth=0.8, alpha=0.6)
        left.plot([], [], color=colour, label=f"width {r.widths[i]:.0f}")
    left.plot(angle, r.limit, "k--", label="limit")
    spread, drift = spread_and_drift(r)
    middle.plot(r.widths, spread, "o-", label="spread at the start")
    middle.plot(r.widths, drift, "s-", label="drift in training")
    for power, y in ((-0.5, spread[0]), (-1, drift[0])):
        line = 0.8 * y * (r.widths / r.widths[0]) ** power
        middle.plot(r.widths, line, ":", color=GREY, label=f"$n^{{{power}}}$")
    right.plot(r.decays, np.diag(r.left), "o", label="errors, each eigenvector")
    right.axline((0, 0), slope=1, color=GREY, linewidth=1, zorder=0)
    title(left, "Kernels of a point with the circle", "angle", r"$\Theta(x_0, x)$")
    title(middle, "They hardly differ", "width $n$", "relative", log="xy")
    title(right, "Training in the limit", r"$e^{-\lambda t / N}$", "error that is left")
    for axes in (left, middle, right):
        axes.legend()


if __name__ == "__main__":
    show(globals())
