"""Tangent kernels of finite networks by eqtangents, in one way."""

import jax

import eqtangents as eqt
from benchmarks.children.clock import child, rates, timed
from benchmarks.children.finite_networks import problem


def work(job, arrays):
    apply, *arguments = problem(job["kind"], job["sizes"], job["n"])
    options = {"trace_axes": (), "implementation": job["way"]}

    def kernel(params, x1, x2):
        return {"ntk": eqt.empirical_ntk(apply, x1, x2, params, **options)}

    answer, record = timed(kernel, *arguments, repeats=job["repeats"], at_least=1.0)
    lowered = jax.jit(kernel).lower(*arguments)
    record["least"] = {
        # Of the way that was taken, as XLA counts them.
        "products": lowered.cost_analysis()["flops"],
        # Parameters are read forwards and backwards, the kernel is written.
        "moved": 2 * n_bytes(arguments[0]) + n_bytes((arguments[1:], answer)),
    }
    return answer, record | rates(job["dtype"])


def n_bytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    child("eqtangents", work)
