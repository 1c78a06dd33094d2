"""A step of dataset distillation by Neural Tangents."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.children.clock import child
from benchmarks.children.distillation import step
from benchmarks.children.kernels_reference import serial


def work(job, arrays):
    _, _, kernel_fn = serial(job["network"])
    # Channels come last, in memory as well.
    images = {
        name: np.ascontiguousarray(np.moveaxis(arrays[name], 1, -1))
        for name in ("x_support", "x_target")
    }

    # Written out, as in the code of the paper: `predict.gp_inference` takes no network.
    def mean(x_support, y_support, x_target):
        kernel = kernel_fn(x_support, None, "ntk")
        n = kernel.shape[0]
        noisy = kernel + job["ridge"] * jnp.trace(kernel) / n * jnp.eye(n)
        solution = jax.scipy.linalg.solve(noisy, y_support, assume_a="pos")
        return kernel_fn(x_target, x_support, "ntk") @ solution

    answer, record = step(mean, job, images["x_support"], arrays | images)
    answer["gradient"] = np.moveaxis(answer["gradient"], -1, 1)
    return answer, record


if __name__ == "__main__":
    child("neural-tangents", work)
