"""Measures eqtangents: `python -m benchmarks.run_eqtangents FOLDER` (`measure.py`)."""

import eqtangents as eqt
from benchmarks.measure import main
from eqtangents import nn


WIDTH = 64  # kernels do not depend on it


def build(network):
    net = sequential(network)

    def kernel(x1, x2):
        result = eqt.kernel(net, x1, x2)
        return result.nngp, result.ntk

    return kernel


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
    main("eqtangents", build)
