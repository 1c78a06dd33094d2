"""Kernels of deep networks by eqtangents, in one precision."""

import eqtangents as eqt
from benchmarks.children.clock import child, timed
from benchmarks.children.kernels_eqtangents import compiler_options, sequential
from eqtangents import nn


def work(job, arrays):
    layers = list(sequential(job["first"]).layers)
    if job["depth"]:
        layers.append(nn.Repeat(sequential(job["block"]), job["depth"]))
    net = nn.Sequential(layers)

    def kernel(x):
        result = eqt.kernel(net, x)
        return {"nngp": result.nngp, "ntk": result.ntk}

    x = arrays["x"].astype(job["dtype"])
    options = {"repeats": job["repeats"], "compiler_options": compiler_options()}
    answer, record = timed(kernel, x, **options)
    assert answer["ntk"].dtype == job["dtype"]
    return answer, record


if __name__ == "__main__":
    child("eqtangents", work)
