"""Kernels of deep networks by eqtangents, in one precision."""

import eqtangents as eqt
from benchmarks.children.clock import child
from benchmarks.children.kernels_eqtangents import sequential, timed_alone
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
    answer, record = timed_alone(kernel, x, repeats=job["repeats"])
    assert answer["ntk"].dtype == job["dtype"]
    return answer, record


if __name__ == "__main__":
    child("eqtangents", work)
