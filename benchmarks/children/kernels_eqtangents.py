"""Kernels of infinitely wide networks by eqtangents."""

import eqtangents as eqt
from benchmarks.children.clock import child, timed
from eqtangents import nn
from eqtangents._budget import budget
from eqtangents.duals._elementary import may_be_differentiated


WIDTH = 64  # kernels do not depend on it


def work(job, arrays):
    net = sequential(job["network"])
    x1, x2 = (arrays[name][: job["n"]].astype(job["dtype"]) for name in ("x1", "x2"))

    def kernel(x1, x2):
        result = eqt.kernel(net, x1, x2)
        return {"nngp": result.nngp, "ntk": result.ntk}

    x2 = None if job["symmetric"] else x2
    return timed_alone(kernel, x1, x2, repeats=job["repeats"], at_least=1.0)


def timed_alone(function, *arguments, **options):
    """`timed`, compiled as the library compiles what is no part of a program."""
    told = dict(budget().compiler_options or ())
    with may_be_differentiated(False):
        return timed(function, *arguments, compiler_options=told, **options)


def sequential(network):
    return nn.Sequential([LAYERS[kind](**arguments) for kind, arguments in network])


def conv(kernel_size, **options):
    return nn.Conv(WIDTH, tuple(kernel_size), **options)


def residual(main, shortcut):
    other = None if shortcut is None else sequential(shortcut)
    return nn.Residual(sequential(main), other)


LAYERS = {
    "conv": conv,
    "linear": lambda **options: nn.Linear(WIDTH, **options),
    "relu": nn.Relu,
    "leaky_relu": lambda alpha: nn.LeakyRelu(alpha),
    "erf": nn.Erf,
    "tanh": nn.Tanh,
    "flatten": nn.Flatten,
    "global_avg_pool": nn.GlobalAvgPool,
    "avg_pool": lambda size: nn.AvgPool(size, size, "VALID"),
    "residual": residual,
}

if __name__ == "__main__":
    child("eqtangents", work)
