"""What infinitely wide networks are sure of, and how to choose them.

On a problem of one dimension we draw the exact posterior and the ensemble of trained
networks at several times. On a data set of diabetes patients we learn depth-wise
weight and bias variances and the noise, by gradient ascent on the marginal likelihood
of the training data, and compare what the defaults and the learned values make of
patients that were held out.

`python examples/uncertainty.py` takes about a minute on two cores and saves a figure,
`uncertainty.png`.
"""

import pathlib

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.scipy.stats import norm
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes

from eqtangents import nn
from eqtangents.predict import Ensemble, FromNetwork, GaussianProcess
from style import COLOURS, panels


SPLITS, STEPS = 5, 150


# ------------------------------------------------------------------------------------
# Learning hyperparameters.
# ------------------------------------------------------------------------------------


class Model(eqx.Module):
    """Logarithms of all hyperparameters: each is an array, and so can be learned."""

    weight_stds: Float[Array, " layers"]
    bias_stds: Float[Array, " layers"]
    noise: Float[Array, ""]

    def posterior(self, x, y):
        stds = zip(jnp.exp(self.weight_stds), jnp.exp(self.bias_stds), strict=True)
        linear = [nn.Linear(1, weight_std=w, bias_std=b) for w, b in stds]
        hidden = [part for layer in linear[:-1] for part in (layer, nn.Relu())]
        net = nn.Sequential([*hidden, linear[-1]])
        return FromNetwork(GaussianProcess, net, x, y, noise=jnp.exp(self.noise))


def default(depth):
    """Variances that keep the signal's size, little bias, and a tenth of noise."""
    weight_stds = jnp.full(depth, np.log(2) / 2).at[-1].set(0)
    return Model(weight_stds, jnp.full(depth, np.log(0.1)), jnp.log(jnp.asarray(0.1)))


def learn(model, x, y):
    """Ascend the evidence. All steps share one compiled function."""
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, STEPS))

    @eqx.filter_value_and_grad
    def loss(model):
        return -model.posterior(x, y).log_marginal_likelihood() / len(y)

    @eqx.filter_jit
    def step(model, state):
        value, gradient = loss(model)
        updates, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    state, losses = optimiser.init(model), []
    for _ in range(STEPS):
        model, state, value = step(model, state)
        losses.append(float(value))
    assert np.isfinite(losses).all()
    return model


@eqx.filter_jit
def held_out(model, x, y, x_test, y_test):
    """Mean log density and squared error of new patients, in units of their spread."""
    posterior = model.posterior(x, y)
    mean, variance = posterior.mean(x_test), posterior.variance(x_test)
    deviation = jnp.sqrt(variance + jnp.exp(model.noise))
    density = jnp.mean(norm.logpdf(y_test, mean, deviation))
    return density, jnp.mean((mean - y_test) ** 2)


def diabetes():
    """For each split, scores of the default and of the learned model."""
    data = load_diabetes()
    scores, learned = [], None
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(data.target))
        train, test = order[:294], order[294:]
        centre, spread = (
            np.mean(data.target[train]),
            np.std(data.target[train]),
        )
        x = data.data / np.std(data.data[train], axis=0)
        y = (data.target - centre) / spread
        parts = [jnp.asarray(a[i], jnp.float32) for i in (train, test) for a in (x, y)]
        learned = learn(default(3), *parts[:2])
        scores.append([held_out(m, *parts) for m in (default(3), learned)])
    return np.asarray(scores), learned


# ------------------------------------------------------------------------------------
# The figure.
# ------------------------------------------------------------------------------------

BLUE, ORANGE, GREY = COLOURS.values()


def line():
    """A few noisy observations of a function, and where to predict it."""
    key_x, key_noise = jr.split(jr.key(3))
    ends = jnp.asarray([[-2.2, -0.6], [0.9, 2.0]])
    x = jnp.concatenate(
        [
            jr.uniform(key, (7,), minval=low, maxval=high)
            for key, (low, high) in zip(jr.split(key_x), ends, strict=True)
        ]
    )
    y = jnp.sin(2 * x) + 0.1 * jr.normal(key_noise, x.shape)
    return x, y, jnp.linspace(-3, 3, 201)


def network():
    hidden = lambda: nn.Linear(1, weight_std=1.7, bias_std=0.7)
    return nn.Sequential([hidden(), nn.Erf(), hidden(), nn.Erf(), nn.Linear(1)])


def draw_line(three):
    x, y, x_test = line()
    net, noise = network(), 0.01
    posterior = FromNetwork(GaussianProcess, net, x[:, None], y, noise=noise)
    ensemble = FromNetwork(Ensemble, net, x[:, None], y, noise=noise)
    t = jnp.asarray([30.0, jnp.inf])
    means = ensemble.mean(t, x_test[:, None])
    variances = ensemble.variance(t, x_test[:, None])
    parts = {
        "Trained for a short time": (means[0], variances[0], ORANGE),
        "Trained to the end": (means[1], variances[1], ORANGE),
        "Exact posterior": (
            posterior.mean(x_test[:, None]),
            posterior.variance(x_test[:, None]),
            BLUE,
        ),
    }
    for axes, (title, (mean, variance, colour)) in zip(
        three, parts.items(), strict=True
    ):
        deviation = 2 * jnp.sqrt(variance)
        axes.fill_between(
            x_test, mean - deviation, mean + deviation, color=colour, alpha=0.2, lw=0
        )
        axes.plot(x_test, mean, color=colour)
        axes.plot(x, y, "o", color="black", markersize=4, zorder=3)
        axes.set(title=title, xlabel="input", ylim=(-2.2, 2.2), xlim=(-3, 3))
    three[0].set_ylabel("output: mean \N{PLUS-MINUS SIGN} 2 standard deviations")


def draw_scores(axes, scores):
    for before, after in scores[..., 0]:
        axes.plot([0, 1], [before, after], color=GREY, linewidth=1, zorder=1)
    for i, colour in enumerate((GREY, BLUE)):
        axes.plot(np.full(SPLITS, i), scores[:, i, 0], "o", color=colour, markersize=7)
    axes.set_xticks([0, 1], ["defaults", "learned"])
    axes.set(title="Diabetes, held out", xlim=(-0.4, 1.4))
    axes.set_ylabel("log density of a patient")


def main():
    console = Console()
    with console.status("Learning hyperparameters ..."):
        scores, learned = diabetes()
    table = Table(title=f"Diabetes: mean of {SPLITS} splits, 294 to train, 148 to test")
    for column in ("hyperparameters", "held-out log density", "squared error"):
        table.add_column(column, justify="left" if "hyper" in column else "right")
    for name, (density, error) in zip(
        ("defaults", "learned"), scores.mean(axis=0), strict=True
    ):
        table.add_row(name, f"{density:.3f}", f"{error:.3f}")
    console.print(table)
    rounded = lambda a: ", ".join(f"{v:.2f}" for v in np.exp(np.atleast_1d(a)))
    console.print(
        f"Last split: weight_std {rounded(learned.weight_stds)}; "
        f"bias_std {rounded(learned.bias_stds)}; noise {rounded(learned.noise)}."
    )
    path = pathlib.Path("uncertainty.png").resolve()
    with panels(path, 4, figsize=(14, 4), width_ratios=(1, 1, 1, 0.7)) as four:
        draw_line(four[:3])
        draw_scores(four[3], scores)
    console.print(f"Figure: {path}")


if __name__ == "__main__":
    main()
