"""Derivatives of kernels of infinitely wide networks by Neural Tangents."""

import jax
import numpy as np

from benchmarks.children.clock import child
from benchmarks.children.derivatives import derivatives
from benchmarks.children.kernels_reference import serial


def work(job, arrays):
    def ntk(network, x1, x2):
        _, _, kernel_fn = serial(network)
        return kernel_fn(x1, x2, "ntk")

    # Channels come last, in memory as well.
    x1, x2 = (
        np.ascontiguousarray(np.moveaxis(arrays[name], 1, -1)) for name in ("x1", "x2")
    )
    answer, record = derivatives(ntk, job, x1, x2, arrays["weights"])
    channels_first = lambda a: np.moveaxis(a, -1, 1) if np.ndim(a) else a
    leaves = jax.tree_util.tree_leaves(answer)
    return {str(i): channels_first(leaf) for i, leaf in enumerate(leaves)}, record


if __name__ == "__main__":
    child("neural-tangents", work)
