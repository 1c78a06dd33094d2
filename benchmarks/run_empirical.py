"""Times one way to a tangent kernel: `... LIBRARY WAY NAME TINY REPEATS FOLDER`.

Run in either library's environment. The answer is left in the folder.
"""

import json
import pathlib
import sys
import time

import jax
import numpy as np

from benchmarks.empirical_networks import problem
from benchmarks.measure import peak_mib


def main():
    library, way, name, tiny, repeats, folder = sys.argv[1:]
    apply, params, x1, x2 = problem(name, tiny == "1")
    params, x1, x2 = jax.device_put((params, x1, x2))
    kernel = {"eqtangents": ours, "reference": theirs}[library](apply, way)
    start = time.perf_counter()
    compiled = jax.jit(kernel).lower(params, x1, x2).compile()
    compile_s = time.perf_counter() - start
    value = jax.block_until_ready(compiled(params, x1, x2))
    runs = []
    # The fastest run is reported: of short ones it takes many.
    while len(runs) < int(repeats) or sum(runs) < 1:
        start = time.perf_counter()
        jax.block_until_ready(compiled(params, x1, x2))
        runs.append(time.perf_counter() - start)
    record = {"compile_s": compile_s, "run_s": runs, "peak_mib": peak_mib()}
    record["jax"] = jax.__version__
    folder = pathlib.Path(folder)
    np.save(folder / f"{library}-{way}.npy", value)
    (folder / f"{library}-{way}.json").write_text(json.dumps(record))


def ours(apply, way):
    import eqtangents as eqt  # the other environment has none

    return lambda params, x1, x2: eqt.empirical_ntk(
        apply, x1, x2, params, implementation=way
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
