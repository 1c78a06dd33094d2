"""Times one way to a tangent kernel: `... LIBRARY WAY NAME TINY REPEATS FOLDER`.

Run in either library's environment. The answer is left in the folder.
"""

import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.empirical_networks import problem
from benchmarks.measure import peak_mib, restart_peak


def main():
    library, way, name, tiny, repeats, folder = sys.argv[1:]
    apply, params, x1, x2 = problem(name, tiny == "1")
    params, x1, x2 = jax.block_until_ready(jax.device_put((params, x1, x2)))
    restart_peak()  # how the inputs came here does not count
    kernel = {"eqtangents": ours, "reference": theirs}[library](apply, way)
    start = time.perf_counter()
    compiled = jax.jit(kernel).lower(params, x1, x2).compile()
    compile_s = time.perf_counter() - start
    record = {"jax": jax.__version__, "compile_s": compile_s, "peak_mib": peak_mib()}
    at_rest = restart_peak()
    value = jax.block_until_ready(compiled(params, x1, x2))
    record["run_s"] = seconds(lambda: compiled(params, x1, x2), int(repeats))
    if at_rest is not None:
        record["working_mib"] = peak_mib() - at_rest
    record["peak_mib"] = max(record["peak_mib"], peak_mib())
    if library == "eqtangents":
        record["gflop"] = gflop(apply, way, params, x1, x2)
        record["matmul_gflop_per_s"] = matmul_rate()
    folder = pathlib.Path(folder)
    np.save(folder / f"{library}-{way}.npy", value)
    (folder / f"{library}-{way}.json").write_text(json.dumps(record))


def seconds(run, repeats):
    """Of each run. The fastest is reported: of short ones it takes many."""
    runs = []
    while len(runs) < repeats or sum(runs) < 1:
        start = time.perf_counter()
        jax.block_until_ready(run())
        runs.append(time.perf_counter() - start)
    return runs


def matmul_rate(n=2048):
    """What this machine reaches at best, in 1e9 operations per second."""
    a = jnp.ones((n, n), "float32")
    multiply = jax.jit(jnp.dot)
    jax.block_until_ready(multiply(a, a))
    return 2e-9 * n**3 / min(seconds(lambda: multiply(a, a), 5))


def gflop(apply, way, params, x1, x2):
    """Operations that the way takes, by the library's own count."""
    import eqtangents as eqt  # the other environment has none

    explained = eqt.explain_empirical_ntk(
        apply, x1, x2, params, trace_axes=(), implementation=way
    )
    return explained.choice.cost.flops / 1e9


def ours(apply, way):
    import eqtangents as eqt  # nor here

    return lambda params, x1, x2: eqt.empirical_ntk(
        apply, x1, x2, params, trace_axes=(), implementation=way
    )


def theirs(apply, way):
    import neural_tangents as nt  # nor this one
    from jax._src import source_info_util
    from jax.interpreters import ad

    # Its structured derivatives look for these here, where JAX 0.4.26 has them no more.
    ad.source_info_util, ad.config = source_info_util, jax.config
    ways = {"jacobian": 1, "vector_products": 2, "structured": 3}
    batched = lambda params, x: jax.vmap(lambda one: apply(params, one))(x)
    kernel = nt.empirical_ntk_fn(
        batched,
        trace_axes=(),
        vmap_axes=0,
        implementation=nt.NtkImplementation(ways[way]),
    )
    return lambda params, x1, x2: kernel(x1, x2, params)


if __name__ == "__main__":
    main()
