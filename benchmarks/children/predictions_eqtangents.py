"""Predictions from kernels by eqtangents."""

import jax.numpy as jnp

import eqtangents as eqt
from benchmarks.children.clock import child, timed
from eqtangents import predict


def work(job, arrays):
    function = FUNCTIONS[job["case"]]
    return timed(lambda a: function(job, a), arrays, repeats=job["repeats"])


def squared_error(job, a):
    training = predict.GradientDescentMSE(
        a["ntk_train_train"], a["y"], relative_noise=job["ridge"]
    )
    # The end is known before anything is compiled, as the reference wants it.
    t = jnp.inf if job["case"].endswith("-end") else a["t"]
    return {"mean": training.test_outputs(t, a["ntk_test_train"])}


def ensemble(trained):
    def run(job, a):
        # The reference adds the noise to the targets too, for the last layer only.
        k = a["nngp_train_train"]
        noise = job["ridge"] * k.trace() / k.shape[0] if trained == "last" else 0.0
        ensemble = predict.Ensemble(
            eqt.Kernel(a["nngp_train_train"], a["ntk_train_train"]),
            a["y"],
            trained=trained,
            relative_noise=job["ridge"],
            target_noise=noise,
        )
        star = eqt.Kernel(a["nngp_test_train"], a["ntk_test_train"])
        t = jnp.inf if job["case"].endswith("-end") else a["t"]
        mean, covariance = ensemble.moments(t, star, a["nngp_test_test"])
        return {"mean": mean, "covariance": covariance}

    return run


def cross_entropy(with_momentum):
    def run(job, a):
        training = predict.GradientDescent(
            predict.cross_entropy,
            a["ntk_train_train"],
            a["y"],
            momentum=job["momentum"] if with_momentum else None,
            rtol=job["ode_tolerance"],
            atol=job["ode_tolerance"],
        )
        states = training.states(a["t"])
        outputs = training.test_outputs(states, a["ntk_test_train"])
        return {"train": states.outputs, "test": outputs}

    return run


FUNCTIONS = {
    "squared-error": squared_error,
    "squared-error-end": squared_error,
    "squared-error-early": squared_error,
    "ensemble-ntk-end": ensemble("all"),
    "ensemble-ntk": ensemble("all"),
    "ensemble-nngp": ensemble("last"),
    "cross-entropy": cross_entropy(with_momentum=False),
    "cross-entropy-momentum": cross_entropy(with_momentum=True),
}

if __name__ == "__main__":
    child("eqtangents", work)
