"""Kernels of infinitely wide networks by Neural Tangents."""

import jax
import numpy as np
from neural_tangents import stax

from benchmarks.children.clock import child, timed


WIDTH = 64  # kernels do not depend on it


def work(job, arrays):
    _, _, kernel_fn = serial(job["network"])
    # Channels come last, in memory as well.
    x1, x2 = (
        np.ascontiguousarray(np.moveaxis(arrays[name][: job["n"]], 1, -1))
        for name in ("x1", "x2")
    )

    def kernel(x1, x2):
        result = kernel_fn(x1, x2, ("nngp", "ntk"))
        return {"nngp": result.nngp, "ntk": result.ntk}

    x2 = None if job["symmetric"] else x2
    return timed(kernel, x1, x2, repeats=job["repeats"], at_least=1.0)


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
    child("neural-tangents", work)
