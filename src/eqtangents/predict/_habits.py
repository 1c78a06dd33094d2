"""What users of other libraries write for predictors, and what to write here."""

from typing import Any, TypeVar

from eqtangents._other_names import Said
from eqtangents._signatures import Habits, names_checked


_FITTED = (
    "It is fitted when it is made, from a kernel matrix and targets: "
    "`predict.GaussianProcess(eqt.nngp(net, x), y, noise=0.1)`, or from a network by "
    "`predict.FromNetwork(predict.GaussianProcess, net, x, y)`."
)
_MEANS = (
    "Its answers are methods: `mean(k_test_train)`, `variance(...)` and so on, given "
    "the kernel of the new inputs with those of training; a `predict.FromNetwork` "
    "takes the new inputs themselves."
)
_METHODS = {
    "fit": _FITTED,
    "train": _FITTED,
    "partial_fit": "`condition(...)` returns a predictor with more observations.",
    "predict": _MEANS,
    "predict_proba": "Probabilities: `predict.class_probabilities(mean, variance)`.",
    "score": _MEANS,
    "posterior": _MEANS,
    "log_prob": "The evidence is `log_marginal_likelihood()`.",
    "log_likelihood": "The evidence is `log_marginal_likelihood()`.",
    "cholesky": "The factors are `inverse.cholesky`.",
    "evidence": "The evidence is `log_marginal_likelihood()`.",
}


_SAID_OF_PREDICTORS = Habits(
    {
        "kernel": ("k_train_train",),
        "k": ("k_train_train",),
        "k_dd": ("k_train_train",),
        "gram": ("k_train_train",),
        "y": ("y_train",),
        "targets": ("y_train",),
        "diag_reg": ("relative_noise",),
        "alpha": ("noise",),
        "sigma": ("noise",),
        "noise_scale": ("noise",),
        "jitter": ("noise",),
    },
    {
        "learning_rate": "Rates belong to a rule: "
        "`rule=predict.GradientFlow(learning_rate)`, or `predict.GradientSteps(...)`.",
        "momentum": "Momentum belongs to a rule: "
        "`rule=predict.GradientSteps(learning_rate, momentum=...)`.",
        "diag_reg_absolute_scale": "Noise is `noise`, or `relative_noise` in units of "
        "the kernel's mean diagonal.",
        "t": "Times are given to the methods, `mean(t, ...)`.",
        "x_train": "A kernel matrix is given here; `predict.FromNetwork` takes inputs.",
        "x_test": "New inputs are given to the methods.",
    },
    lambda owner, names, args: None,
)


_Predictor = TypeVar("_Predictor", bound=type)


def habits_told(cls: _Predictor) -> _Predictor:
    """Have a class say what takes the place of what other libraries have."""
    answers = [name for name in vars(cls) if not name.startswith("_")]
    listed = f"It has `{'`, `'.join(answers)}`."

    def missing(self: Any, name: str) -> Any:
        said = _METHODS.get(name, listed)
        raise AttributeError(f"`{cls.__name__}` has no `{name}`. {said}")

    cls.__init__ = names_checked(_SAID_OF_PREDICTORS)(cls.__init__)
    cls.__getattr__ = missing
    return cls


OF_PREDICTORS = Said(
    {
        "FromInputs": "FromNetwork",
        "GP": "GaussianProcess",
        "GaussianProcessRegressor": "GaussianProcess",
        "KernelRidge": "GaussianProcess",
        "gp_inference": "GaussianProcess",
        "gradient_descent": "GradientDescent",
        "gradient_descent_mse": "GradientDescentMSE",
        "gradient_descent_mse_ensemble": "Ensemble",
        "ODEState": "TrainingState",
    },
    {},
)
