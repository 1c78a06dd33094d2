"""Predictions from kernels by Neural Tangents."""

import collections

import jax
import jax.numpy as jnp
from neural_tangents import predict

from benchmarks.children.clock import child, timed


Kernel = collections.namedtuple("Kernel", "nngp ntk")


def work(job, arrays):
    function = FUNCTIONS[job["case"]]
    return timed(lambda a: function(job, a), arrays, repeats=job["repeats"])


def squared_error(job, a):
    predict_fn = predict.gradient_descent_mse(
        a["ntk_train_train"], a["y"], diag_reg=job["ridge"]
    )
    t = None if job["case"].endswith("-end") else a["t"]
    mean = predict_fn(t, None, 0.0, a["ntk_test_train"])
    return {"mean": mean}


def ensemble(get):
    def run(job, a):
        n_train = a["y"].shape[0]
        n_test = a["nngp_test_test"].shape[0]

        def kernel_fn(x1, x2, get):
            """Kernels computed before, looked up by the sizes of the batches."""
            if x2 is None and x1.shape[0] == n_train:
                kernel = Kernel(a["nngp_train_train"], a["ntk_train_train"])
            elif x2 is None:
                kernel = Kernel(a["nngp_test_test"], None)
            else:
                kernel = Kernel(a["nngp_test_train"], a["ntk_test_train"])
            return kernel if isinstance(get, tuple) else getattr(kernel, get)

        x_train, x_test = jnp.zeros((n_train, 1)), jnp.zeros((n_test, 1))
        predict_fn = predict.gradient_descent_mse_ensemble(
            kernel_fn, x_train, a["y"], diag_reg=job["ridge"]
        )
        t = None if job["case"].endswith("-end") else a["t"]
        result = predict_fn(t, x_test, get, True)
        return {"mean": result.mean, "covariance": result.covariance}

    return run


def cross_entropy(with_momentum):
    def run(job, a):
        # The mean over examples of the sum over classes.
        loss = lambda f, y: -jnp.mean(jnp.sum(jax.nn.log_softmax(f) * y, axis=-1))
        predict_fn = predict.gradient_descent(
            loss,
            a["ntk_train_train"],
            a["y"],
            momentum=job["momentum"] if with_momentum else None,
        )
        train, test = predict_fn(a["t"], 0.0, 0.0, a["ntk_test_train"])
        return {"train": train, "test": test}

    return run


FUNCTIONS = {
    "squared-error": squared_error,
    "squared-error-end": squared_error,
    "squared-error-early": squared_error,
    "ensemble-ntk-end": ensemble("ntk"),
    "ensemble-ntk": ensemble("ntk"),
    "ensemble-nngp": ensemble("nngp"),
    "cross-entropy": cross_entropy(with_momentum=False),
    "cross-entropy-momentum": cross_entropy(with_momentum=True),
}

if __name__ == "__main__":
    child("neural-tangents", work)
