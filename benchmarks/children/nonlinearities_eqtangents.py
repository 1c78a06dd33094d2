"""Kernels with one nonlinearity by eqtangents: one layer to check, several to time."""

import jax

import eqtangents as eqt
from benchmarks.children.clock import child
from benchmarks.children.kernels_eqtangents import timed_alone
from eqtangents import nn


def work(job, arrays):
    layer = getattr(nn, job["layer"])(*job["arguments"])
    x, checked = (arrays[name].astype(job["dtype"]) for name in ("x", "checked"))
    block = [nn.Linear(1, weight_std=1.0, bias_std=0.1), layer]
    deep = nn.Sequential([*block * job["depth"], nn.Linear(1)])
    kernel = lambda x1, x2: both(deep, x1, x2)
    _, record = timed_alone(kernel, x, x, repeats=job["repeats"])
    one = nn.Sequential([nn.Linear(1), layer])
    return jax.jit(lambda a: both(one, a, a))(checked), record


def both(net, x1, x2):
    kernel = eqt.kernel(net, x1, x2)
    return {"nngp": kernel.nngp, "ntk": kernel.ntk}


if __name__ == "__main__":
    child("eqtangents", work)
