r"""Wide networks train as their linearisation does.

At width $n$, training changes the weights of a layer relatively by $n^{-1/2}$ at the
ends and by $1 / n$ between hidden layers, and the NTK by $n^{-1/2}$ at most. So
networks follow the model that is linear in their parameters, on any loss, and an
ensemble of them is Gaussian, with a mean and a variance in closed form at any time. The
NTK in fact comes to change by $1 / n$, but later than at these widths: for other draws
of the data, $n$ times its change was 11.5, 13.4 and 14.6 at widths of 128, 512 and
2,048, with standard errors of 0.5, 0.9 and 2.

Ensembles of finite width are off by $1 / n$, with a factor that grows in training: late
in it, widths of 32 to 128 are too small for that rate. So an ensemble is compared
early, after 20 steps, and by what two widths $n < m$ extrapolate to, $(m \mu_m - n
\mu_n) / (m - n)$, which has no term of order $1 / n$. Each network is trained beside
the one whose last weights have the opposite sign, which is as likely: all that is odd
in these weights, most of the noise, falls out of their mean.

**Setting.** Two hidden layers of `Erf`, 12 points in five dimensions and 8 others; 100
pairs of networks of widths 32 and 128, 10 of width 512; 100 steps of others on two
losses. The source has MNIST and CIFAR-10, and widths of thousands.
"""

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
    COLOURS,
    GREY,
    ORANGE,
    Finding,
    above,
    below,
    experiment,
    extrapolated,
    near,
    panels,
    show,
    slope,
    slope_error,
    title,
)


CLAIM = "Parameters of wide networks hardly move, and linear models predict them."
SOURCE = "Lee, Xiao et al. 2019, arXiv:1902.06720"
TRAIN, TEST, RATE, MOMENTUM, EARLY, STEPS = 12, 8, 0.5, 0.6, 20, 100
WIDTHS, PAIRS, OTHERS = (32, 128, 512), (100, 100, 10), (10, 2)


class Result(eqx.Module):
    """Relative changes by width, trajectories, and moments of ensembles."""

    widths: Float[Array, " widths"]
    changes: Float[Array, "widths 4"]  # of the weights of each layer, and of the NTK
    errors: Float[Array, "widths 4"]  # standard errors of these means
    gaps: Float[Array, "two losses"]  # to linear models, of the narrowest and widest
    network: Float[Array, "losses steps train"]  # of the widest, one of them
    linear: Float[Array, "losses steps train"]
    closed: Float[Array, "steps train"]
    outputs: Float[Array, "two pairs signs points"]  # of the narrower, after training
    mean: Float[Array, " points"]
    variance: Float[Array, " points"]


def network(width) -> nn.Sequential:
    hidden = lambda: nn.Linear(width, weight_std=1.5, bias_std=0.1)
    return nn.Sequential([hidden(), nn.Erf(), hidden(), nn.Erf(), nn.Linear(1)])


def data() -> tuple[Float[Array, "points 5"], Float[Array, "train 1"]]:
    key_x, key_y = jr.split(jr.key(0))
    return jr.normal(key_x, (TRAIN + TEST, 5)), jr.normal(key_y, (TRAIN, 1))


def squared(outputs, y) -> Float[Array, ""]:
    return jnp.mean((outputs - y) ** 2) / 2


def logistic(outputs, y) -> Float[Array, ""]:
    return jnp.mean(jnp.logaddexp(0.0, -jnp.sign(y) * outputs))


def trained(
    model, loss, momentum, steps
) -> tuple[eqx.Module, Float[Array, "steps train"]]:
    """Gradient descent with momentum, as `optax.sgd` has it."""
    x, y = data()
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    outputs = lambda p: jax.vmap(eqx.combine(p, rest))(x[:TRAIN])

    def step(carry, _: None) -> tuple[tuple, Array]:
        p, v = carry
        before, pullback = jax.vjp(outputs, p)
        (slope,) = pullback(jax.grad(loss)(before, y))
        v = jax.tree.map(lambda v, g: momentum * v + g, v, slope)
        p = jax.tree.map(lambda p, v: p - RATE * v, p, v)
        return (p, v), before[:, 0]

    start = params, jax.tree.map(jnp.zeros_like, params)
    (params, _), path = jax.lax.scan(step, start, None, length=steps)
    return eqx.combine(params, rest), path


@eqx.filter_jit
def ensemble(width, keys) -> tuple[Array, Array, Array]:
    """Relative changes, their standard errors, and outputs after training."""
    x, _ = data()
    norm = jnp.linalg.norm

    def one(key, sign) -> tuple[Array, Array]:
        before = network(width).init((5,), key=key)
        last = lambda model: model.layers[-1].weight
        before = eqx.tree_at(last, before, sign * last(before))
        after, _ = trained(before, squared, 0.0, EARLY)
        moved = [
            norm(b.weight - a.weight) / norm(a.weight)
            for a, b in zip(before.layers[::2], after.layers[::2], strict=True)
        ]
        first, last = (eqt.empirical_ntk(m, x[:TRAIN]) for m in (before, after))
        moved.append(norm(last - first) / norm(first))
        return jnp.stack(moved), jax.vmap(after)(x)[:, 0]

    pair = lambda key: jax.vmap(lambda sign: one(key, sign))(jnp.array([1.0, -1.0]))
    moved, outputs = jax.lax.map(pair, keys, batch_size=5)
    moved = moved.mean(1)
    return moved.mean(0), moved.std(0, ddof=1) / len(keys) ** 0.5, outputs


@eqx.filter_jit
def paths(width, keys) -> tuple[Array, Array, Array]:
    """Networks and their linearisations on two losses, and their kernels."""
    x, _ = data()
    cases = ((squared, MOMENTUM), (logistic, 0.0))

    def one(key) -> tuple[Array, Array, Array]:
        model = network(width).init((5,), key=key)
        of = lambda m: jnp.stack([trained(m, *case, STEPS)[1] for case in cases])
        kernel = eqt.empirical_ntk(model, x[:TRAIN])
        return of(model), of(eqt.linearize(model)), kernel

    return jax.lax.map(one, keys)


@experiment
def run(size: str = "small") -> Result:
    """Train networks, and predict them; both sizes are one."""
    x, y = data()
    found = [
        ensemble(n, jr.split(jr.key(1), count))
        for n, count in zip(WIDTHS, PAIRS, strict=True)
    ]
    changes, errors, outputs = zip(*found, strict=True)
    gaps = []
    for n, count in zip((WIDTHS[0], WIDTHS[-1]), OTHERS, strict=True):
        networks, linear, kernels = paths(n, jr.split(jr.key(2), count))
        gaps.append(jnp.abs(networks - linear).max((2, 3)).mean(0))
    steps = jnp.arange(0.0, STEPS)
    rule = predict.GradientSteps(RATE, momentum=MOMENTUM)
    closed = predict.GradientDescentMSE(kernels[0], y, rule=rule).train_outputs(
        steps, networks[0, 0, 0, :, None]
    )
    limit = eqt.kernel(network(1), x)
    part = lambda rows: jax.tree.map(lambda k: k[rows, :TRAIN], limit)
    trained_limit = predict.Ensemble(
        part(slice(TRAIN)), y, rule=predict.GradientSteps(RATE)
    )
    everywhere = part(slice(None))
    prior = jnp.diagonal(limit.nngp)
    return Result(
        widths=np.array(WIDTHS, float),
        changes=jnp.stack(changes),
        errors=jnp.stack(errors),
        gaps=jnp.stack(gaps),
        network=networks[0],
        linear=linear[0],
        closed=closed[..., 0],
        outputs=jnp.stack(outputs[:2]),
        mean=trained_limit.mean(EARLY, everywhere)[:, 0],
        variance=trained_limit.variance(EARLY, everywhere, prior),
    )


def exponents(r: Result) -> tuple[np.ndarray, np.ndarray]:
    """Of the changes, and their standard errors."""
    errors = (r.errors / r.changes).T
    return (
        np.array([slope(r.widths, change) for change in r.changes.T]),
        np.array([slope_error(r.widths, error) for error in errors]),
    )


def biases(r: Result) -> tuple[np.ndarray, float, float]:
    """Of means: at the smaller width, in standard errors; the larger one's share of it.

    The last is that share's standard error.
    """
    narrow, wide = r.outputs.mean(2) - r.mean
    count = len(narrow) ** 0.5
    bias = narrow.mean(0)
    shares = wide @ bias / np.sum(bias**2)
    z = bias / (narrow.std(0, ddof=1) / count)
    return z, shares.mean(), shares.std(ddof=1) / count


def check(result: Result) -> list[Finding]:
    """Assert the rates, the trajectories, and the moments."""
    r = result
    size = np.abs(r.network).max()
    mean, error = extrapolated(r.widths[:2], *r.outputs.mean(2))
    squares = (r.outputs - r.mean) ** 2 / r.variance
    of_pairs = squares[..., TRAIN:].mean((2, 3))
    spread, uncertain = extrapolated(r.widths[:2], *of_pairs)
    z, share, of_share = biases(r)
    rates, of_rates = exponents(r)
    # Corrections of relative order n^(-1/2) at the narrowest.
    narrow = np.log1p(r.widths[0] ** -0.5) / np.log(r.widths[-1] / r.widths[0])
    exact, allowed = np.array([-0.5, -1, -0.5]), narrow + 5 * of_rates[:3]
    return [
        near(
            "weights' exponents, less theirs, over what is allowed",
            (rates[:3] - exact) / allowed,
            0,
            atol=1,
        ),
        below("NTK, exponent + 5 standard errors", rates[3] + 5 * of_rates[3], -0.5),
        # Of order 1 / n, which two of the widest know to 20 per cent or so: below the
        # ratio of the source's bound, n^(-1/2).
        below(
            "distance to linear models, 16 times the width over narrow",
            r.gaps[1] / r.gaps[0],
            (r.widths[-1] / r.widths[0]) ** -0.5,
        ),
        # One and the same, up to rounding.
        near(
            "linear model and closed form, momentum",
            r.linear[0],
            r.closed,
            atol=1e-10 * size,
        ),
        # Or else the rate of the bias would say nothing.
        above("bias at the smallest width, in standard errors", np.abs(z).max(), 5),
        near("bias at four times the width over that", share, 0.25, atol=5 * of_share),
        near(
            "ensemble: mean less limit, in standard errors",
            (mean - r.mean) / error,
            0,
            atol=5,
        ),
        near("ensemble: variance over limit", spread, 1, atol=5 * uncertain),
    ]


@panels
def draw(result: Result, left: Axes, middle: Axes, right: Axes) -> None:
    """Changes against width, trajectories, and the ensemble."""
    r = result
    for i, name in enumerate(("first", "hidden", "last")):
        left.plot(r.widths, r.changes[:, i], "o-", label=f"{name} weights")
    left.plot(r.widths, r.changes[:, 3], "s--", label="NTK", color=GREY)
    steps = np.arange(STEPS)
    for i, colour in zip(range(4), COLOURS, strict=False):
        middle.plot(steps, r.network[1, :, i], color=colour)
        middle.plot(steps, r.linear[1, :, i], "k--", linewidth=1)
    points = np.arange(TRAIN + TEST)
    right.errorbar(
        points,
        r.mean,
        2 * np.sqrt(r.variance),
        fmt="o",
        color=BLUE,
        label="limit, two deviations",
    )
    networks = r.outputs[1].reshape(-1, len(points))
    right.plot(points + 0.3, networks.T, ".", color=ORANGE, markersize=2)
    label = f"{len(networks)} networks of width {WIDTHS[1]}"
    right.plot([], [], ".", color=ORANGE, label=label)
    title(left, f"Relative change in {EARLY} steps", "width", "", log="xy")
    title(middle, "Logistic loss (dashed: linear)", "step", "outputs of four points")
    title(right, f"Outputs after {EARLY} steps", "12 training points, 8 others", "")
    left.legend()
    right.set_xticks(points[::5])
    right.set_ylim(top=2.2)
    right.legend()


if __name__ == "__main__":
    show(globals())
