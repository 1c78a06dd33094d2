"""Predictions by eqtangents, for `benchmarks/predict.py`."""

import eqtangents as eqt
from benchmarks.predict import MOMENTUM, ODE_TOLERANCE, RIDGE, work
from eqtangents import predict


def mse(a):
    training = predict.GradientDescentMSE(
        a["ntk_train_train"], a["y"], relative_noise=RIDGE
    )
    return {"mean": training.test_outputs(a["t"], a["ntk_test_train"])}


def ensemble(trained):
    def run(a):
        ensemble = predict.Ensemble(
            eqt.Kernel(a["nngp_train_train"], a["ntk_train_train"]),
            a["y"],
            trained=trained,
            relative_noise=RIDGE,
            # The reference adds the noise to the targets too, for the last layer only.
            target_noise=_noise(a["nngp_train_train"]) if trained == "last" else 0.0,
        )
        star = eqt.Kernel(a["nngp_test_train"], a["ntk_test_train"])
        covariance = ensemble.covariance(a["t"], star, a["nngp_test_test"])
        return {"mean": ensemble.mean(a["t"], star), "covariance": covariance}

    return run


def _noise(kernel):
    return RIDGE * kernel.trace() / kernel.shape[0]


def ode(momentum):
    def run(a):
        training = predict.GradientDescent(
            predict.cross_entropy,
            a["ntk_train_train"],
            a["y"],
            momentum=momentum,
            rtol=ODE_TOLERANCE,
            atol=ODE_TOLERANCE,
        )
        states = training.states(a["t"])
        outputs = training.test_outputs(states, a["ntk_test_train"])
        return {"train": states.outputs, "test": outputs}

    return run


FUNCTIONS = {
    "mse": mse,
    "ensemble-ntk": ensemble("all"),
    "ensemble-nngp": ensemble("last"),
    "ode": ode(None),
    "ode-momentum": ode(MOMENTUM),
}

if __name__ == "__main__":
    work("eqtangents", FUNCTIONS)
