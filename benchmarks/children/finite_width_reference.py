"""Tangent kernels of finite networks by Neural Tangents, in one way."""

import jax
import neural_tangents as nt
from jax._src import source_info_util
from jax.interpreters import ad

from benchmarks.children.clock import child, timed
from benchmarks.children.finite_networks import problem


# Its structured derivatives look for these here, where JAX 0.4.26 has them no more.
ad.source_info_util, ad.config = source_info_util, jax.config
WAYS = {"jacobian": 1, "vector_products": 2, "structured": 3}


def work(job, arrays):
    apply, *arguments = problem(job["kind"], job["sizes"], job["n"])
    kernel = nt.empirical_ntk_fn(
        lambda params, x: jax.vmap(lambda one: apply(params, one))(x),
        trace_axes=(),
        vmap_axes=0,
        implementation=nt.NtkImplementation(WAYS[job["way"]]),
    )
    run = lambda params, x1, x2: {"ntk": kernel(x1, x2, params)}
    return timed(run, *arguments, repeats=job["repeats"], at_least=1.0)


if __name__ == "__main__":
    child("neural-tangents", work)
