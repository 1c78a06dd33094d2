"""Estimators are those of scikit-learn, and say what predictors say."""

import importlib
import pickle
import sys
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import eqtangents as eqt
from eqtangents import nn, predict
from eqtangents.estimators import (
    NNGPClassifier,
    NNGPRegressor,
    NTKClassifier,
    NTKRegressor,
    _estimator,
)


# Estimators have the precision of their inputs, whatever that of JAX is.
pytestmark = pytest.mark.precision("float32")

REGRESSORS = [NNGPRegressor, NTKRegressor]
CLASSIFIERS = [NNGPClassifier, NTKClassifier]
ALL = [*REGRESSORS, *CLASSIFIERS]


@pytest.mark.slow
@pytest.mark.usefixtures("without_jaxtyping")
@parametrize_with_checks([of() for of in ALL])
def test_checks_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():  # as `check_estimator` has it
        warnings.simplefilter("default")
        check(estimator)


def data(dtype=np.float64):
    """Inputs and targets of one shape, so that most tests share their programs."""
    random = np.random.default_rng(0)
    x = random.normal(size=(24, 3)).astype(dtype)
    return x, np.sin(x[:, 0]) + x[:, 1]


def targets_of(estimator, y):
    if estimator in REGRESSORS:
        return y
    return np.array(["low", "middle", "high"])[np.digitize(y, [-0.5, 0.5])]


def network(depth=1, weight_std=2**0.5, bias_std=0.1):
    hidden = [nn.Linear(1, weight_std=weight_std, bias_std=bias_std), nn.Relu()]
    return nn.Sequential([*hidden * depth, nn.Linear(1, bias_std=bias_std)])


def by_hand(estimator, x, y, x_test):
    """Mean and variance of standardised targets, and noise, from kernels."""
    with jax.enable_x64(x.dtype == np.float64):
        x, y, x_test = jnp.asarray(x), jnp.asarray(y, x.dtype), jnp.asarray(x_test)
        net, noise = network(), {"relative_noise": 0.01}
        kernel, star = eqt.kernel(net, x), eqt.kernel(net, x_test, x)
        prior = eqt.nngp(net, x_test)
        if estimator in (NNGPRegressor, NNGPClassifier):
            gp = predict.GaussianProcess(kernel.nngp, y, **noise)
            mean, covariance = gp.mean(star.nngp), gp.covariance(star.nngp, prior)
            noise = gp.data.noise[0, 0]
        else:
            ensemble, noise = predict.Ensemble(kernel, y, **noise), 0.0
            mean = ensemble.mean(jnp.inf, star)
            covariance = ensemble.covariance(jnp.inf, star, prior)
        return np.asarray(mean), np.diagonal(covariance), np.asarray(noise)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", REGRESSORS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_regressors_say_what_predictors_say(estimator, dtype):
    x, y = data(dtype)
    model = estimator().fit(x, y)
    mean, deviation = model.predict(x[:8] + 0.1, return_std=True)
    assert mean.dtype == deviation.dtype == dtype
    standard = (y - y.mean()) / y.std()
    there, variance, _ = by_hand(estimator, x, standard, x[:8] + 0.1)
    tolerance = 1e-10 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(mean, y.mean() + y.std() * there, tolerance, tolerance)
    np.testing.assert_allclose(deviation, y.std() * np.sqrt(variance), tolerance)
    assert not jax.config.jax_enable_x64


@pytest.mark.slow
@pytest.mark.parametrize("estimator", CLASSIFIERS)
def test_classifiers_say_what_predictors_say(estimator):
    x, y = data()
    names = targets_of(estimator, y)
    model = estimator().fit(x, names)
    assert list(model.classes_) == sorted(set(names))
    x_test = x[:8] + 0.1
    targets = (names[:, None] == model.classes_) - 1 / 3
    mean, variance, noise = by_hand(estimator, x, targets, x_test)
    with jax.enable_x64(True):
        moments = jnp.asarray(mean), jnp.asarray(variance + noise)
        wanted = np.asarray(predict.class_probabilities(*moments))
    found = model.predict_proba(x_test)
    np.testing.assert_allclose(found, wanted, 1e-9, 1e-9)
    assert list(model.predict(x_test)) == list(model.classes_[np.argmax(mean, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("estimator", REGRESSORS)
def test_units_of_targets_do_not_matter(estimator):
    x, y = data()
    both = np.stack([y, 3 - 1e4 * y], axis=1)  # as two outputs
    mean, deviation = estimator().fit(x, both).predict(x + 0.1, return_std=True)
    assert mean.shape == deviation.shape == (24, 2)
    np.testing.assert_allclose(mean[:, 1], 3 - 1e4 * mean[:, 0], 1e-9)
    np.testing.assert_allclose(deviation[:, 1], 1e4 * deviation[:, 0], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_depth_is_the_number_of_hidden_layers(depth):
    x, y = data()
    one = NTKRegressor(depth=depth, weight_std=1.2).fit(x, y)
    other = NTKRegressor(network(depth, weight_std=1.2)).fit(x, y)
    np.testing.assert_allclose(one.predict(x + 0.1), other.predict(x + 0.1), 1e-9)
    assert one.net_.init((3,), key=jax.random.key(0))(jnp.ones(3)).shape == (1,)


@pytest.mark.slow
def test_constant_targets_are_learned():
    x, _ = data()
    assert (NTKRegressor().fit(x, np.full(24, 7.0)).predict(x) == 7).all()


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ALL)
def test_grids_and_pipelines(estimator):
    x, y = data()
    model = make_pipeline(StandardScaler(), estimator(noise=0.1))
    name = estimator.__name__.lower()
    grid = {f"{name}__depth": [1, 2], f"{name}__weight_std": [1.0, 4.0]}
    scoring = "r2" if estimator in REGRESSORS else "neg_log_loss"
    search = GridSearchCV(model, grid, cv=2, error_score="raise", scoring=scoring)
    search.fit(x, targets_of(estimator, y))
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 4
    again = clone(model).set_params(**search.best_params_)
    again.fit(x, targets_of(estimator, y))
    np.testing.assert_array_equal(search.predict(x), again.predict(x))


def conv(depth):
    hidden = [nn.Conv(1, 3, padding="SAME"), nn.Relu()]
    return nn.Sequential([*hidden * depth, nn.GlobalAvgPool(), nn.Linear(1)])


@pytest.mark.slow
def test_networks_and_functions_are_hyperparameters():
    x, y = data()
    images = x[:, None]
    grid = [{"net": [conv], "depth": [1, 2]}, {"net": [conv(3), conv(4)]}]
    search = GridSearchCV(NNGPRegressor(), grid, cv=KFold(2), error_score="raise")
    search.fit(images, y)
    again = NNGPRegressor(conv(3)).fit(images, y).predict(images)
    np.testing.assert_array_equal(
        NNGPRegressor(conv, depth=3).fit(images, y).predict(images), again
    )
    copy = clone(NTKRegressor(conv(3), activation=nn.LeakyRelu(0.1)))
    assert copy.net == conv(3)
    assert copy.activation == nn.LeakyRelu(0.1)


@pytest.mark.quick(1)
@pytest.mark.parametrize("estimator", ALL)
def test_copies_say_the_same(estimator):
    x, y = data()
    model = estimator().fit(x, targets_of(estimator, y))
    ask = "predict" if estimator in REGRESSORS else "predict_proba"
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(getattr(copy, ask)(x), getattr(model, ask)(x))


WRONG = [
    ({"net": 3}, TypeError, "`net` is 3, but must be a network of `eqtangents.nn`"),
    ({"net": lambda depth: depth}, TypeError, "`net` returned 1, but must return"),
    ({"net": lambda width: conv(width)}, TypeError, "takes `width`, but a function"),
    ({"net": eqx.nn.Identity()}, TypeError, "takes `x`, .* `eqt.from_equinox"),
    ({"net": conv, "bias_std": 1.0}, ValueError, "`bias_std` is 1.0, but changes noth"),
    ({"net": nn.Relu(), "depth": 2}, ValueError, "`depth` is 2, but changes nothing"),
    ({"depth": -1}, ValueError, "`depth` is -1, but must not be negative"),
    ({"depth": 1.5}, TypeError, "`depth` is 1.5, but must be an integer"),
    ({"activation": "step"}, ValueError, "`activation` is 'step', but must be a nonl"),
    ({"activation": "hermite"}, ValueError, "`activation` is 'hermite', but must be"),
    ({"weight_std": -1.0}, ValueError, "Linear: `weight_std` is an array of the value"),
]


@pytest.mark.usefixtures("without_jaxtyping")
@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
def test_wrong_hyperparameters_are_told_by_fit(wrong, error, message):
    x, y = data()
    model = NTKRegressor(**wrong)
    with pytest.raises(error, match=message):
        model.fit(x, y)


def test_scikit_learn_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"pip install 'eqtangents\[sklearn\]'"):
        importlib.reload(_estimator)
