"""Tangent kernels of finite networks by eqtangents, in one way."""

import jax
import jax.numpy as jnp

import eqtangents as eqt
from benchmarks.children.clock import child, seconds, timed
from benchmarks.children.finite_networks import problem


def work(job, arrays):
    apply, *arguments = problem(job["kind"], job["sizes"], job["n"])
    options = {"trace_axes": (), "implementation": job["way"]}

    def kernel(params, x1, x2):
        return {"ntk": eqt.empirical_ntk(apply, x1, x2, params, **options)}

    answer, record = timed(kernel, *arguments, repeats=job["repeats"], at_least=1.0)
    params, x1, x2 = arguments
    explained = eqt.explain_empirical_ntk(apply, x1, x2, params, **options)
    record["gflop"] = explained.choice.cost.flops / 1e9  # by the library's own count
    record["matmul_gflop_per_s"] = matmul_rate()
    return answer, record


def matmul_rate(n=2048):
    """What this machine reaches at best, in 1e9 operations per second."""
    a = jnp.ones((n, n), "float32")
    multiply = jax.jit(jnp.dot)
    jax.block_until_ready(multiply(a, a))
    return 2e-9 * n**3 / min(seconds(lambda: multiply(a, a), 5, 1.0))


if __name__ == "__main__":
    child("eqtangents", work)
