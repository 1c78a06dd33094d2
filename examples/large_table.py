"""The prices of 54,000 diamonds, by kernels that do not fit into memory.

Weights of the properties of a diamond, variances of a fully-connected network and the
noise are learned by the evidence of a small part of the table, for the network's NNGP
and for its NTK. With these, prices of held-out diamonds are predicted from more and
more of the table, up to all of it: the kernel matrix is computed into a store on disk,
and the equations with it are solved by preconditioned conjugate gradients. Small parts
are solved exactly, too, by a Cholesky factorisation, and gradient-boosted trees learn
from all of the parts.

`python examples/large_table.py` takes a quarter of an hour on two cores, and 5 GB
on disk for each kernel of all rows; `--rows 3000` takes a minute. It prints errors and
saves a figure, `large_table.png`: both kernels learn more from few diamonds than trees
do, which catch up where there are tens of thousands, and both ways to solve find the
same.

On a Dask cluster, whose workers compute the kernels:

    python examples/large_table.py --scheduler tcp://HOST:8786 --store s3://BUCKET/FOLDER

The folder is one that all workers reach; the matrices are kept in it, and a run that
was killed goes on with them.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import tempfile
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from dask.distributed import Client
from jaxtyping import Array, Float
from plotnine.data import diamonds
from sklearn.ensemble import HistGradientBoostingRegressor

import eqtangents as eqt
from eqtangents import nn
from eqtangents.predict import GaussianProcess
from eqtangents.solvers import BlockCG
from style import COLOURS, log_axis, panels


TEST, SUBSET, STEPS = 3000, 1000, 40
SIZES = [1000, 3000, 10_000, 30_000]
EXACT_UP_TO = 3000
RANK = 500
# Of the size of the targets: far less than the noise is of them.
TOLERANCE = 1e-2
KERNELS = {"nngp": eqt.nngp, "ntk": eqt.ntk}


def load():
    """Standardised properties, and logarithms of prices: to learn from, and held out.

    Cut, colour and clarity are grades, whose order is known. Left out are 23 rows with
    a length, width or depth of nothing, or of more than any diamond has.
    """
    sides = diamonds[["x", "y", "z"]]
    table = diamonds[((sides > 0) & (sides < 20)).all(axis=1)]
    graded = [table[name].cat.codes for name in ("cut", "color", "clarity")]
    measured = table[["carat", "depth", "table", "x", "y", "z"]]
    x = np.column_stack([measured, *graded]).astype(np.float32)
    y = np.log(table["price"].to_numpy(np.float32))
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order], y[order]
    x, y = (x - x[TEST:].mean(0)) / x[TEST:].std(0), y - y[TEST:].mean()
    x, y = jnp.asarray(x), jnp.asarray(y)
    return x[TEST:], y[TEST:], x[:TEST], y[:TEST]


# ------------------------------------------------------------------------------------
# Learning hyperparameters.
# ------------------------------------------------------------------------------------


class Model(eqx.Module):
    """Logarithms of all hyperparameters: each is an array, and so can be learned."""

    scales: Float[Array, " properties"]
    weight_std: Float[Array, ""]
    bias_std: Float[Array, ""]
    noise_std: Float[Array, ""]
    kind: str = eqx.field(static=True)

    def __init__(self, kind, properties):
        self.kind, self.scales = kind, jnp.zeros(properties)
        self.weight_std, self.bias_std, self.noise_std = jnp.log(
            jnp.array([1.4, 0.3, 0.2])
        )

    @property
    def network(self):
        stds = {
            "weight_std": jnp.exp(self.weight_std),
            "bias_std": jnp.exp(self.bias_std),
        }
        hidden = [nn.Linear(1, **stds), nn.Relu()]
        return nn.Sequential([*hidden, *hidden, nn.Linear(1)])

    @property
    def noise(self):
        return jnp.exp(2 * self.noise_std)

    def scaled(self, x):
        return x * jnp.exp(self.scales)[None]

    def kernel(self, *batches):
        """The matrix, as an array."""
        return KERNELS[self.kind](self.network, *map(self.scaled, batches))

    def never_formed(self, *batches, **noise):
        """An operator that computes the kernels anew in each product."""
        x = map(self.scaled, batches)
        return eqt.GramOperator(self.network, *x, kind=self.kind, **noise)


def learn(model, x, y):
    """Ascend the evidence, which of so few rows is exact."""
    optimiser = optax.adam(optax.cosine_decay_schedule(0.1, STEPS))

    @eqx.filter_grad
    def slope(model):
        posterior = GaussianProcess(model.kernel(x), y, noise=model.noise)
        return -posterior.log_marginal_likelihood() / len(y)

    @eqx.filter_jit
    def step(model, state):
        updates, state = optimiser.update(slope(model), state)
        return eqx.apply_updates(model, updates), state

    state = optimiser.init(model)
    for _ in range(STEPS):
        model, state = step(model, state)
    return model


# ------------------------------------------------------------------------------------
# Predictions. Each gives the mean for held-out rows, and how many steps it took.
# ------------------------------------------------------------------------------------


def by_steps(model, x, y, x_test, store, client):
    """From a matrix in a store, by conjugate gradients."""
    stored = eqt.gram(
        model.network, model.scaled(x), kind=model.kind, store=store, executor=client
    )
    # A few columns are computed again in less time than they take to read.
    columns = model.never_formed(x, noise=model.noise)
    preconditioner = eqt.rp_cholesky(columns, min(RANK, len(y) // 3), jr.key(0))
    operator = eqt.GramOperator(stored, noise=model.noise)
    solution = eqt.solve(operator, y, BlockCG(preconditioner, rtol=TOLERANCE))
    return model.never_formed(x_test, x).mv(solution.value), int(solution.steps)


def exactly(model, x, y, x_test):
    """By a Cholesky factorisation, which takes float64: rounding grows with rows."""
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float64), tree)
        model, x, y, x_test = map(double, (model, x, y, x_test))
        posterior = GaussianProcess(model.kernel(x), y, noise=model.noise)
        return np.asarray(posterior.mean(model.kernel(x_test, x))), None


def by_trees(x, y, x_test):
    """By gradient-boosted trees, as many as help to predict a tenth of the rows."""
    trees = HistGradientBoostingRegressor(
        max_iter=2000, early_stopping=True, random_state=0
    )
    trees.fit(np.asarray(x), np.asarray(y))
    return trees.predict(np.asarray(x_test)), trees.n_iter_


# ------------------------------------------------------------------------------------
# The study.
# ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Result:
    """What is found from some rows."""

    way: str
    rows: int
    error: float  # root mean square of the logarithm, about that of the price
    steps: int | None


def study(most, folder, client):
    """Results of all ways, from more and more rows."""
    x, y, x_test, y_test = load()
    most = min(most, len(y))
    sizes = [n for n in SIZES if n < most] + [most]
    results = []
    print(f"Prices of {TEST:,} diamonds held out", flush=True)

    def run(way, predict, n, *more):
        start = time.perf_counter()
        mean, steps = predict(x[:n], y[:n], x_test, *more)
        error = float(jnp.sqrt(jnp.mean((jnp.asarray(mean) - y_test) ** 2)))
        seconds = time.perf_counter() - start
        results.append(Result(way, n, error, steps))
        count = "" if steps is None else f"{steps} {COUNTED[way]}"
        line = f"{way:14} {n:6,} rows {error:7.2%} {count:>9} {seconds:6.1f} s"
        print(line, flush=True)

    for kind in KERNELS:
        name = kind.upper()
        model = learn(Model(kind, x.shape[1]), x[:SUBSET], y[:SUBSET])
        for n in sizes:
            store = f"{folder}/{kind}-{n}.zarr"
            run(name, eqx.Partial(by_steps, model), n, store, client)
            if n <= EXACT_UP_TO:
                run(f"{name}, exactly", eqx.Partial(exactly, model), n)
    for n in sizes:
        run("boosted trees", by_trees, n)
    return results


COUNTED = {"NNGP": "steps", "NTK": "steps", "boosted trees": "trees"}
WAYS = {
    "NNGP": {"color": COLOURS["orange"], "marker": "o"},
    "NTK": {"color": COLOURS["blue"], "marker": "o"},
    "boosted trees": {"color": COLOURS["grey"], "marker": "s"},
}
HOLLOW = {"linestyle": "none", "markersize": 11, "markerfacecolor": "none"}


def draw(results, path):
    with panels(path, 2, width_ratios=(1.4, 1)) as (left, right):
        for way, style in WAYS.items():
            rows, errors, steps = (
                [getattr(one, name) for one in results if one.way == way]
                for name in ("rows", "error", "steps")
            )
            left.plot(rows, errors, label=way, **style)
            exact = [one for one in results if one.way == f"{way}, exactly"]
            if exact:
                points = [one.rows for one in exact], [one.error for one in exact]
                left.plot(*points, label=f"{way}, exactly", **{**style, **HOLLOW})
                right.plot(rows, steps, label=way, **style)
        ticks = sorted({one.rows for one in results})
        log_axis(left, x=ticks)
        log_axis(right, x=ticks[::2])
        low, high = (f(one.error for one in results) for f in (min, max))
        marks = [e for e in np.arange(0.05, 0.5, 0.01) if low * 0.97 < e < high * 1.03]
        left.set_yscale("log")
        left.set_yticks(marks, [f"{mark:.0%}" for mark in marks])
        left.minorticks_off()
        left.set_title("What more diamonds teach")
        left.set_ylabel("error of the price of others")
        right.set_title("What a solution takes")
        right.set_ylabel("steps of conjugate gradients")
        right.set_ylim(0)
        for axes in (left, right):
            axes.set_xlabel("diamonds to learn from")
            axes.legend()


@contextlib.contextmanager
def opened(options):
    """Where matrices are stored, and the cluster that computes them, if any."""
    with contextlib.ExitStack() as stack:
        client, folder = None, options.store
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        if options.scheduler is not None:
            client = stack.enter_context(Client(options.scheduler))
        yield folder, client


def main():
    parser = argparse.ArgumentParser(description="Prices of diamonds.")
    parser.add_argument("--rows", type=int, default=10**6, help="of the table, at most")
    parser.add_argument("--store", help="a folder, or the URL of one, for the matrices")
    parser.add_argument("--scheduler", help="the address of a Dask cluster's scheduler")
    options = parser.parse_args()
    if options.scheduler is not None and options.store is None:
        parser.error("--scheduler needs --store, a folder that all workers reach")
    with opened(options) as (folder, client):
        results = study(options.rows, folder, client)
    path = pathlib.Path("large_table.png").resolve()
    draw(results, path)
    print(f"Figure: {path}")


if __name__ == "__main__":
    main()
