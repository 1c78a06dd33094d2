"""Measures Neural Tangents: `python -m benchmarks.run_reference FOLDER` (`measure.py`).

Executed by the reference's own Python: nothing of eqtangents may be imported here.
"""

import jax
import numpy as np
from neural_tangents import stax

from benchmarks.measure import main


WIDTH = 64  # kernels do not depend on it


def build(network):
    _, _, kernel_fn = serial(network)

    def kernel(x1, x2):
        result = kernel_fn(x1, x2, ("nngp", "ntk"))
        return result.nngp, result.ntk

    return kernel


def serial(network):
    return stax.serial(*(LAYERS[kind](**arguments) for kind, arguments in network))


def conv(kernel_size, stride, padding, weight_std):
    strides = (stride,) * len(kernel_size)
    return stax.Conv(WIDTH, tuple(kernel_size), strides, padding, W_std=weight_std)


def linear(weight_std, bias_std):
    return stax.Dense(WIDTH, W_std=weight_std, b_std=bias_std)


def residual(main, shortcut):
    other = stax.Identity() if shortcut is None else serial(shortcut)
    branches = stax.parallel(serial(main), other)
    return stax.serial(stax.FanOut(2), branches, stax.FanInSum())


LAYERS = {
    "conv": conv,
    "linear": linear,
    "relu": stax.Relu,
    "leaky_relu": stax.LeakyRelu,
    "erf": stax.Erf,
    "tanh": lambda: stax.ElementwiseNumerical(jax.numpy.tanh, deg=25),
    "flatten": stax.Flatten,
    "global_avg_pool": stax.GlobalAvgPool,
    "avg_pool": lambda size: stax.AvgPool((size, size), (size, size), "VALID"),
    "residual": residual,
}

if __name__ == "__main__":
    main("neural-tangents", build, prepare=lambda x: np.moveaxis(x, 1, -1))
