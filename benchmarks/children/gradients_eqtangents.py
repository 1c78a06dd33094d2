"""Derivatives of kernels of infinitely wide networks by eqtangents."""

import jax

import eqtangents as eqt
from benchmarks.children.clock import child
from benchmarks.children.derivatives import derivatives
from benchmarks.children.kernels_eqtangents import sequential


def work(job, arrays):
    ntk = lambda network, x1, x2: eqt.ntk(sequential(network), x1, x2)
    arguments = (arrays[name] for name in ("x1", "x2", "weights"))
    answer, record = derivatives(ntk, job, *arguments)
    return {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(answer))}, record


if __name__ == "__main__":
    child("eqtangents", work)
