"""A kernel with one nonlinearity by Neural Tangents, by quadrature."""

import jax
import numpy as np
from neural_tangents import stax

from benchmarks.children.clock import child, timed


FUNCTIONS = {
    "tanh": jax.numpy.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "silu": jax.nn.silu,
}


def work(job, arrays):
    numerical = stax.ElementwiseNumerical(FUNCTIONS[job["function"]], deg=job["degree"])
    _, _, kernel_fn = stax.serial(stax.Dense(1), numerical)

    def kernel(x1, x2):
        nngp, ntk = kernel_fn(x1, x2, ("nngp", "ntk"))
        return {"nngp": nngp, "ntk": ntk}

    x = arrays["checked"]
    answer = jax.jit(kernel)(x, x)
    many = np.concatenate([x] * (job["n"] // len(x) + 1))[: job["n"]]
    return answer, timed(kernel, many, many, repeats=job["repeats"])[1]


if __name__ == "__main__":
    child("neural-tangents", work)
