"""How the losses of wide networks fall, against those of infinitely wide ones.

A fully-connected network learns handwritten digits by gradient descent, on the squared
error and on the cross-entropy. Finite networks are trained by taking the steps. For
infinitely wide ones there is nothing to train:

- on the squared error, mean and variance of all of them after any number of steps are
  in closed form, and with them the loss that is to be expected;
- on the cross-entropy, their outputs follow a differential equation, which we solve
  from a few random starts.

`python examples/training_dynamics.py` takes about a minute on two cores and saves a
figure, `training_dynamics.png`.
"""

import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from rich.console import Console
from sklearn.datasets import load_digits

import eqtangents as eqt
from eqtangents import nn, predict
from style import COLOURS, log_axis, panels


jax.config.update("jax_default_prng_impl", "rbg")  # compiles faster on a CPU

N_TRAIN, N_TEST, WIDTH, NETWORKS = 100, 200, 512, 4
STEPS = np.unique(np.round(np.geomspace(1, 1000, 40)).astype(int))


def network(width):
    hidden = functools.partial(nn.Linear, width, weight_std=2**0.5, bias_std=0.1)
    return nn.Sequential([hidden(), nn.Relu(), hidden(), nn.Relu(), nn.Linear(10)])


def load():
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))[: N_TRAIN + N_TEST]
    x = digits.data[order].astype(np.float32)
    return jnp.asarray((x - x.mean()) / x.std()), jnp.asarray(digits.target[order])


# ------------------------------------------------------------------------------------
# Finite networks: take the steps.
# ------------------------------------------------------------------------------------


@eqx.filter_jit
def finite(loss, x, y, learning_rate):
    """Train and test loss of several networks after each number of steps."""
    make = lambda key: network(WIDTH).init(x.shape[1:], key=key)
    models = eqx.filter_vmap(make)(jr.split(jr.key(1), NETWORKS))
    # Loops make arrays of all numbers: keep the hyperparameters out, they are no leaves
    # to be trained.
    params, rest = eqx.partition(models, eqx.is_array)

    def losses(params):
        outputs = jax.vmap(eqx.combine(params, rest))(x)
        parts = (outputs[:N_TRAIN], y[:N_TRAIN]), (outputs[N_TRAIN:], y[N_TRAIN:])
        return jnp.stack([loss(*part) for part in parts])

    def step(_, params):
        slope = jax.grad(lambda p: losses(p)[0])(params)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, slope)

    def advance(params, steps):
        params = jax.lax.fori_loop(0, steps, step, params)
        return params, losses(params)

    taken = jnp.asarray(np.diff(STEPS, prepend=0))
    return jax.vmap(lambda params: jax.lax.scan(advance, params, taken)[1])(params)


# ------------------------------------------------------------------------------------
# Infinite ones: ask for the result.
# ------------------------------------------------------------------------------------


def infinite_squared_error(k, targets, learning_rate):
    train, test = slice(None, N_TRAIN), slice(N_TRAIN, None)
    block = lambda rows: jax.tree.map(lambda a: a[rows, train], k)
    rule = predict.GradientSteps(learning_rate)
    ensemble = predict.Ensemble(block(train), targets[train], rule=rule)

    def expected(rows):
        mean = ensemble.mean(STEPS, block(rows))
        variance = ensemble.variance(STEPS, block(rows), jnp.diagonal(k.nngp)[rows])
        misfit = jnp.mean((mean - targets[rows][None]) ** 2, axis=(1, 2))
        return (misfit + jnp.mean(variance, axis=1)) / 2

    return jnp.stack([expected(train), expected(test)], axis=1)


def infinite_cross_entropy(k, labels, learning_rate):
    starts = jnp.linalg.cholesky(k.nngp + 1e-4 * jnp.eye(len(labels)))
    starts = starts @ jr.normal(jr.key(2), (8, len(labels), 10))
    training = predict.GradientDescent(
        predict.cross_entropy,
        k.ntk[:N_TRAIN, :N_TRAIN],
        labels[:N_TRAIN],
        output_shape=(10,),
        learning_rate=learning_rate,
        rtol=1e-4,
        atol=1e-4,
    )

    def losses(start):
        states = training.states(STEPS, training.start(start[:N_TRAIN]))
        tests = training.test_outputs(
            states, k.ntk[N_TRAIN:, :N_TRAIN], start[N_TRAIN:]
        )
        loss = lambda labels: jax.vmap(lambda f: predict.cross_entropy(f, labels))
        train = loss(labels[:N_TRAIN])(states.outputs)
        return jnp.stack([train, loss(labels[N_TRAIN:])(tests)], axis=1)

    return jnp.mean(jnp.stack([losses(start) for start in starts]), axis=0)


# ------------------------------------------------------------------------------------
# The figure.
# ------------------------------------------------------------------------------------

PARTS = {"training": COLOURS["blue"], "test": COLOURS["orange"]}


def draw(results, path):
    with panels(path, 2) as both:
        for axes, (title, (wide, limit)) in zip(both, results.items(), strict=True):
            for i, (part, colour) in enumerate(PARTS.items()):
                axes.plot(STEPS, limit[:, i], color=colour, linewidth=4, alpha=0.35)
                axes.plot(STEPS, wide[:, :, i].T, color=colour, linewidth=1)
                axes.plot([], [], color=colour, linewidth=4, label=f"{part} loss")
            axes.set(title=title, xlabel="steps of gradient descent", ylabel="loss")
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            losses = [0.003, 0.01, 0.03, 0.1, 0.2, 0.5, 1, 2, 3]
            losses = [tick for tick in losses if low < tick < high]
            log_axis(axes, x=[1, 10, 100, 1000], y=losses)
        grey = {"color": COLOURS["grey"]}
        both[0].plot([], [], linewidth=4, alpha=0.5, label="infinite width", **grey)
        label = f"{NETWORKS} networks of width {WIDTH}"
        both[0].plot([], [], linewidth=1, label=label, **grey)
        both[0].legend(loc="lower left")


def main():
    x, labels = load()
    targets = predict.encode_labels(labels, 10, x.dtype)
    k = eqt.kernel(network(1), x)
    k_train = k.ntk[:N_TRAIN, :N_TRAIN]
    rate = predict.max_learning_rate(k_train, n_targets=10 * N_TRAIN) / 8
    entropy_rate = predict.max_learning_rate(k_train) / 8

    console = Console()
    results = {}
    with console.status("Squared error ..."):
        results["Squared error"] = (
            finite(predict.half_mean_squared_error, x, targets, rate),
            infinite_squared_error(k, targets, rate),
        )
    with console.status("Cross-entropy ..."):
        results["Cross-entropy"] = (
            finite(predict.cross_entropy, x, labels, entropy_rate),
            infinite_cross_entropy(k, labels, entropy_rate),
        )
    for name, (wide, limit) in results.items():
        off = jnp.abs(jnp.mean(wide, axis=0) / limit - 1)
        console.print(
            f"{name}: the mean loss of networks of width {WIDTH} is within "
            f"{jnp.max(off[:, 0]):.0%} (training) and {jnp.max(off[:, 1]):.0%} (test) "
            "of that of infinite ones, at all times."
        )
    path = pathlib.Path("training_dynamics.png").resolve()
    draw(results, path)
    console.print(f"Figure: {path}")


if __name__ == "__main__":
    main()
