"""Trained networks against infinite ones: `python -m benchmarks.trained_networks`.

Many networks are trained on digits by full-batch gradient descent. Mean and variance of
their outputs over initialisations, on training and test digits and at several times,
are compared with those of infinite width: the squared error with the closed form of
`Ensemble`, the cross-entropy with the differential equation of `GradientDescent`, from
each network's own start. The bias of a finite width is inversely proportional to it, so
it is measured on narrow networks and scaled.
"""

import argparse
import functools
import json
import pathlib
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from sklearn.datasets import load_digits

import eqtangents as eqt
from eqtangents import nn, predict


N_TRAIN, N_TEST, CLASSES = 30, 10, 10
STEPS = np.asarray([0, 10, 50, 200])
# Of the largest one: the flow, for the cross-entropy, must be close to the steps.
FRACTION = {"squared error": 1 / 4, "cross-entropy": 1 / 8}
NARROW, NARROW_NETWORKS = 256, 500


def network(width):
    hidden = functools.partial(nn.Linear, width, weight_std=2**0.5, bias_std=0.1)
    last = nn.Linear(CLASSES)
    return nn.Sequential([hidden(), nn.Relu(), hidden(), nn.Relu(), last])


def load():
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))[: N_TRAIN + N_TEST]
    x = digits.data[order].astype(np.float32)
    return jnp.asarray((x - x.mean()) / x.std()), jnp.asarray(digits.target[order])


@eqx.filter_jit
def trained(loss, width, keys, x, y, learning_rate):
    """Outputs `(networks, times, examples, classes)`, one network after the other."""

    def train(key):
        model = network(width).init(x.shape[1:], key=key)
        params, rest = eqx.partition(model, eqx.is_array)
        outputs = lambda params: jax.vmap(eqx.combine(params, rest))(x)
        slope = jax.grad(lambda params: loss(outputs(params)[:N_TRAIN], y))

        def step(_, params):
            move = lambda p, g: p - learning_rate * g
            return jax.tree.map(move, params, slope(params))

        def advance(params, steps):
            params = jax.lax.fori_loop(0, steps, step, params)
            return params, outputs(params)

        return jax.lax.scan(advance, params, jnp.asarray(np.diff(STEPS, prepend=0)))[1]

    return jax.lax.map(train, keys)


def squared_error(k, labels):
    """The loss, targets, learning rate and the moments of infinite networks."""
    targets = predict.encode_labels(labels, CLASSES, jnp.float32)[:N_TRAIN]
    block = lambda rows: jax.tree.map(lambda a: a[rows, :N_TRAIN], k)
    rate = predict.max_learning_rate(k.ntk[:N_TRAIN, :N_TRAIN], n_targets=targets.size)
    rate = FRACTION["squared error"] * rate
    rule = predict.GradientSteps(rate)
    ensemble = predict.Ensemble(block(slice(N_TRAIN)), targets, rule=rule)
    everything = block(slice(None))
    mean = ensemble.mean(STEPS, everything)
    variance = ensemble.variance(STEPS, everything, jnp.diagonal(k.nngp))
    variance = np.broadcast_to(np.asarray(variance)[..., None], mean.shape)
    moments = lambda outputs: (np.asarray(mean), variance)
    return predict.half_mean_squared_error, targets, rate, moments


def cross_entropy(k, labels):
    labels = labels[:N_TRAIN]
    k_train = k.ntk[:N_TRAIN, :N_TRAIN]
    rate = FRACTION["cross-entropy"] * predict.max_learning_rate(k_train)
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
        states = training.states(STEPS, training.start(start[:N_TRAIN]))
        return training.test_outputs(states, k.ntk[:, :N_TRAIN], start)

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


def study(name, k, x, labels, width, count):
    """A record for each moment and time."""
    make = squared_error if name == "squared error" else cross_entropy
    loss, y, rate, moments = make(k, labels)

    def run(width, count):
        keys = jr.split(jr.key(width), count)
        return compare(trained(loss, width, keys, x, y, rate), moments)

    narrow, _ = run(NARROW, NARROW_NETWORKS)
    wide, errors = run(width, count)
    for i, moment in enumerate(("mean", "variance")):
        bias = np.abs(narrow[i]) * NARROW / width
        for j, steps in enumerate(STEPS):
            distance = np.abs(wide[i][j])
            within = distance <= 3 * errors[i][j] + bias[j]
            yield {
                "loss": name,
                "moment": moment,
                "steps": int(steps),
                "width": width,
                "networks": count,
                "within": float(within.mean()),
                "within_without_bias": float((distance <= 3 * errors[i][j]).mean()),
                "rms_in_standard_errors": float(
                    np.sqrt(np.mean((wide[i][j] / errors[i][j]) ** 2))
                ),
                "mean_bias_in_standard_errors": float(np.mean(bias[j] / errors[i][j])),
            }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--networks", type=int, default=100)
    default = pathlib.Path(__file__).parent / "results" / "trained_networks.jsonl"
    parser.add_argument("--out", type=pathlib.Path, default=default, help="JSON lines")
    options = parser.parse_args()
    x, labels = load()
    k = eqt.kernel(network(1), x)
    failed = False
    with options.out.open("w") as log:
        for name in FRACTION:
            for record in study(name, k, x, labels, options.width, options.networks):
                log.write(json.dumps(record) + "\n")
                print(
                    f"{name:14} {record['steps']:4} steps, {record['moment']:8}: "
                    f"{record['within']:7.2%} within 3 standard errors and the bias "
                    f"({record['within_without_bias']:7.2%} without it); "
                    f"rms {record['rms_in_standard_errors']:.2f}",
                    flush=True,
                )
                failed |= record["within"] < 0.99
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
