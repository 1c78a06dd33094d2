"""Moments of trained networks and of infinite ones, and how far they are apart."""

import functools
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from sklearn.datasets import load_digits

import eqtangents as eqt
from benchmarks.children.clock import child
from eqtangents import nn, predict


CLASSES = 10


def work(job, arrays):
    x, labels = load(job["n_train"] + job["n_test"])
    k = eqt.kernel(network(1), x)
    start = time.perf_counter()
    answer = study(job, k, x, labels)
    return answer, {"compile_s": 0.0, "run_s": [time.perf_counter() - start]}


def study(job, k, x, labels):
    """Distances of both moments, standard errors, and the bias of this width."""
    make = {"squared-error": squared_error, "cross-entropy": cross_entropy}[job["loss"]]
    loss, y, rate, moments = make(job, k, labels)

    def run(width, count):
        keys = jr.split(jr.key(width), count)
        steps = tuple(np.diff(job["steps"], prepend=0).tolist())
        outputs = trained(loss, width, keys, x, y, rate, steps)
        return compare(outputs, moments)

    narrow, _ = run(job["narrow_width"], job["narrow_networks"])
    wide, errors = run(job["width"], job["networks"])
    scale = job["narrow_width"] / job["width"]
    return {
        f"{moment}_{name}": value
        for i, moment in enumerate(("mean", "variance"))
        for name, value in {
            "distance": wide[i],
            "error": errors[i],
            "bias": np.abs(narrow[i]) * scale,
        }.items()
    }


def network(width):
    hidden = functools.partial(nn.Linear, width, weight_std=2**0.5, bias_std=0.1)
    last = nn.Linear(CLASSES)
    return nn.Sequential([hidden(), nn.Relu(), hidden(), nn.Relu(), last])


def load(n):
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))[:n]
    x = digits.data[order].astype(np.float32)
    return jnp.asarray((x - x.mean()) / x.std()), jnp.asarray(digits.target[order])


@eqx.filter_jit
def trained(loss, width, keys, x, y, learning_rate, steps):
    """Outputs `(networks, times, examples, classes)`, one network after the other."""

    def train(key):
        model = network(width).init(x.shape[1:], key=key)
        params, rest = eqx.partition(model, eqx.is_array)
        outputs = lambda params: jax.vmap(eqx.combine(params, rest))(x)
        slope = jax.grad(lambda params: loss(outputs(params)[: len(y)], y))

        def step(_, params):
            move = lambda p, g: p - learning_rate * g
            return jax.tree.map(move, params, slope(params))

        def advance(params, more):
            params = jax.lax.fori_loop(0, more, step, params)
            return params, outputs(params)

        return jax.lax.scan(advance, params, jnp.asarray(steps))[1]

    return jax.lax.map(train, keys)


def squared_error(job, k, labels):
    """The loss, targets, learning rate and the moments of infinite networks."""
    n, steps = job["n_train"], np.asarray(job["steps"])
    targets = predict.encode_labels(labels, CLASSES, jnp.float32)[:n]
    block = lambda rows: jax.tree.map(lambda a: a[rows, :n], k)
    rate = predict.max_learning_rate(k.ntk[:n, :n], n_targets=targets.size)
    rate = job["fraction"] * rate
    rule = predict.GradientSteps(rate)
    ensemble = predict.Ensemble(block(slice(n)), targets, rule=rule)
    everything = block(slice(None))
    mean = ensemble.mean(steps, everything)
    variance = ensemble.variance(steps, everything, jnp.diagonal(k.nngp))
    variance = np.broadcast_to(np.asarray(variance)[..., None], mean.shape)
    moments = lambda outputs: (np.asarray(mean), variance)
    return predict.half_mean_squared_error, targets, rate, moments


def cross_entropy(job, k, labels):
    """The loss, targets, learning rate and the moments of infinite networks."""
    n, steps = job["n_train"], np.asarray(job["steps"])
    labels = labels[:n]
    k_train = k.ntk[:n, :n]
    rate = job["fraction"] * predict.max_learning_rate(k_train)
    training = predict.GradientDescent(
        predict.cross_entropy,
        k_train,
        labels,
        output_shape=(CLASSES,),
        learning_rate=rate,
        rtol=1e-4,
        atol=1e-5,
    )

    @jax.jit
    @jax.vmap
    def infinite(start):
        states = training.states(steps, training.start(start[:n]))
        return training.test_outputs(states, k.ntk[:, :n], start)

    def moments(outputs):
        paths = np.asarray(infinite(outputs[:, 0]), np.float64)
        return paths.mean(axis=0), paths.var(axis=0, ddof=1)

    return predict.cross_entropy, labels, rate, moments


def compare(outputs, moments):
    """Distances of both moments from those of infinite width, and standard errors."""
    outputs = np.asarray(outputs, np.float64)
    mean, variance = moments(outputs.astype(np.float32))
    found = outputs.mean(axis=0), outputs.var(axis=0, ddof=1)
    # By the larger of both variances: with its own alone, a sample that is too narrow
    # would look sure of itself; and where infinite networks all but agree, on training
    # examples in the end, finite ones do not yet.
    spread = np.maximum(variance, found[1])
    errors = (
        np.sqrt(spread / len(outputs)),
        spread * np.sqrt(2 / (len(outputs) - 1)),
    )
    return (found[0] - mean, found[1] - variance), errors


if __name__ == "__main__":
    child("eqtangents", work)
