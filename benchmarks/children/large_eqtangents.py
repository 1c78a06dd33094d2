"""The posterior mean of the arc-cosine kernel, by eqtangents: by steps, or exactly."""

import jax
import jax.numpy as jnp

import eqtangents as eqt
from benchmarks.children.solves import child
from eqtangents import nn, predict, solvers


def solve(job, x, y, x_new):
    jax.config.update("jax_enable_x64", job["dtype"] == "float64")
    x, y, x_new = map(jnp.asarray, (x, y, x_new))
    net = nn.Sequential([nn.Linear(1, weight_std=2**0.5), nn.Relu(), nn.Linear(1)])
    kernel, cross = eqt.nngp(net, x), eqt.nngp(net, x_new, x)
    if job["exactly"]:
        posterior = predict.GaussianProcess(kernel, y, noise=job["noise"])
        return posterior.mean(cross)
    operator = eqt.GramOperator(kernel, noise=job["noise"])
    chosen = eqt.rp_cholesky(operator, job["rank"], jax.random.key(0))
    solver = solvers.BlockCG(chosen, rtol=job["rtol"])
    return predict.GaussianProcess(operator, y, solver=solver).mean(cross)


if __name__ == "__main__":
    child("eqtangents", solve)
