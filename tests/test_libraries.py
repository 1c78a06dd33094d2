"""Kernels for other libraries say in these what they say here."""

import importlib
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn, predict


NOISE = 0.1
KINDS = {"nngp": eqt.nngp, "ntk": eqt.ntk}
NOT_THERE = "GPJax is not installed: `nox -s libraries` tests it"


def network(weight_std):
    """Of vectors of three numbers, and of one hyperparameter."""
    first = nn.Linear(8, weight_std=weight_std, bias_std=0.3)
    return nn.Sequential([first, nn.Erf(), nn.Linear(1)])


def pooled():
    return nn.Sequential([nn.Conv(8, 3), nn.Relu(), nn.GlobalAvgPool(), nn.Linear(1)])


def data():
    x, x_test = jr.normal(jr.key(0), (12, 3)), jr.normal(jr.key(1), (5, 3))
    return x, jnp.sin(2 * x[:, 0]), x_test


def evidence(kind, weight_std):
    x, y, _ = data()
    return posterior(kind, weight_std, x, y).log_marginal_likelihood()


def posterior(kind, weight_std, x, y):
    kernel = KINDS[kind](network(weight_std), x)
    return predict.GaussianProcess(kernel, y[:, None], noise=NOISE)


def close(found, truth):
    # These libraries add up to 1e-6 to diagonals.
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_matrices_are_those_of_the_network():
    of = importlib.import_module("eqtangents.tinygp").NetworkKernel
    x, _, x_test = data()
    close(of(network(1.3))(x, x_test), eqt.nngp(network(1.3), x, x_test))
    close(of(network(1.3), "ntk")(x), eqt.ntk_diagonal(network(1.3), x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_tinygp_has_the_evidence_and_the_posterior(kind):
    tinygp = importlib.import_module("tinygp")
    from_here = importlib.import_module("eqtangents.tinygp")
    x, y, x_test = data()

    def process(weight_std):
        kernel = from_here.NetworkKernel(network(weight_std), kind)
        return tinygp.GaussianProcess(kernel, x, diag=jnp.asarray(NOISE))

    std = jnp.asarray(1.3)
    learned = jax.value_and_grad(lambda w: process(w).log_probability(y))
    close(learned(std), jax.value_and_grad(lambda w: evidence(kind, w))(std))
    mean = posterior(kind, 1.3, x, y).mean(KINDS[kind](network(1.3), x_test, x))
    close(process(1.3).condition(y, x_test).gp.loc, mean[:, 0])


@pytest.mark.slow
def test_tinygp_adds_and_multiplies_and_takes_any_inputs():
    kernels = importlib.import_module("tinygp.kernels")
    of = importlib.import_module("eqtangents.tinygp").NetworkKernel
    x, _, x_test = data()
    matern = kernels.Matern32(jnp.asarray(1.0), kernels.distance.L2Distance())
    both = jnp.asarray(2.0) * of(network(1.3)) + matern
    close(both(x, x_test), 2 * eqt.nngp(network(1.3), x, x_test) + matern(x, x_test))
    close(both(x), 2 * eqt.nngp_diagonal(network(1.3), x) + 1)
    close(of(network(1.3))(x[:, 0], x[:, 0]), eqt.nngp(network(1.3), x[:, :1]))
    images = jr.normal(jr.key(2), (3, 2, 6))
    close(of(pooled(), "ntk")(images, images), eqt.ntk(pooled(), images))


@pytest.mark.slow
@pytest.mark.precision("float64")  # GPJax warns of another
@pytest.mark.parametrize("kind", KINDS)
def test_gpjax_has_the_evidence_and_the_posterior(kind):
    gpjax = pytest.importorskip("gpjax", reason=NOT_THERE)
    of = importlib.import_module("eqtangents.gpjax").NetworkKernel
    x, y, x_test = data()
    seen = gpjax.Dataset(X=x, y=y[:, None])

    def process(weight_std):
        kernel = of(network(weight_std), kind)
        prior = gpjax.gps.Prior(
            mean_function=gpjax.mean_functions.Zero(), kernel=kernel
        )
        return prior * gpjax.likelihoods.Gaussian(obs_stddev=jnp.sqrt(NOISE))

    std = jnp.asarray(1.3)
    learned = jax.value_and_grad(
        lambda w: gpjax.objectives.conjugate_mll(process(w), seen)
    )
    close(learned(std), jax.value_and_grad(lambda w: evidence(kind, w))(std))
    mean = posterior(kind, 1.3, x, y).mean(KINDS[kind](network(1.3), x_test, x))
    close(process(1.3).predict(x_test, train_data=seen).mean, mean[:, 0])


@pytest.mark.slow
@pytest.mark.precision("float64")  # GPJax warns of another
def test_gpjax_adds_and_takes_images_and_columns():
    gpjax = pytest.importorskip("gpjax", reason=NOT_THERE)
    of = importlib.import_module("eqtangents.gpjax").NetworkKernel
    x, _, x_test = data()
    net, rbf = network(1.3), gpjax.kernels.RBF()
    found = (of(net) + rbf).cross_covariance(x, x_test)
    close(found, eqt.nngp(net, x, x_test) + rbf.cross_covariance(x, x_test))
    close(of(net, active_dims=[0, 2]).gram(x).as_matrix(), eqt.nngp(net, x[:, [0, 2]]))
    images = jr.normal(jr.key(2), (3, 2, 6))
    kernel, rows = of(pooled(), "ntk", shape=(2, 6)), images.reshape(3, 12)
    close(kernel.gram(rows).as_matrix(), eqt.ntk(pooled(), images))
    diagonal = jnp.diag(kernel.diagonal(rows).as_matrix())
    close(diagonal, eqt.ntk_diagonal(pooled(), images))


@pytest.mark.slow
@pytest.mark.precision("float64")  # GPJax warns of another
def test_gpjax_fits_hyperparameters_that_are_arrays():
    gpjax = pytest.importorskip("gpjax", reason=NOT_THERE)
    optax = importlib.import_module("optax")
    of = importlib.import_module("eqtangents.gpjax").NetworkKernel
    x, y, _ = data()
    zero = gpjax.mean_functions.Zero()
    prior = gpjax.gps.Prior(mean_function=zero, kernel=of(network(jnp.asarray(1.3))))
    with jax.numpy_dtype_promotion("standard"):  # of steps with numbers
        fitted, losses = gpjax.fit(
            model=prior * gpjax.likelihoods.Gaussian(),
            objective=lambda model, seen: -gpjax.objectives.conjugate_mll(model, seen),
            train_data=gpjax.Dataset(X=x, y=y[:, None]),
            optim=optax.adam(0.1),
            num_iters=5,
            verbose=False,
        )
    first = fitted.prior.kernel.net.layers[0]
    assert losses[-1] < losses[0]
    assert first.weight_std != 1.3
    assert first.bias_std == 0.3


@pytest.mark.precision("float64")  # GPJax warns of another
def test_columns_that_inputs_do_not_have_are_told():
    pytest.importorskip("gpjax", reason=NOT_THERE)
    of = importlib.import_module("eqtangents.gpjax").NetworkKernel
    x, _, _ = data()
    with pytest.raises(ValueError, match=r"`active_dims` is \[0, 3\], but .* 3 col"):
        of(network(1.3), active_dims=[0, 3]).gram(x)
    with pytest.raises(ValueError, match=r"`shape` is \(2, 6\), of 12 numbers, but"):
        of(pooled(), shape=(2, 6)).gram(x)


@pytest.mark.usefixtures("without_jaxtyping")
def test_a_shape_is_a_tuple():
    pytest.importorskip("gpjax", reason=NOT_THERE)
    of = importlib.import_module("eqtangents.gpjax").NetworkKernel
    with pytest.raises(TypeError, match=r"`shape` is 12, .*`\(channels, \*spatial\)`"):
        of(pooled(), shape=12)


@pytest.mark.usefixtures("without_jaxtyping")
def test_what_is_no_covariance_function_is_refused():
    of = importlib.import_module("eqtangents.tinygp").NetworkKernel
    with pytest.raises(TypeError, match="from_equinox"):
        of(eqx.nn.MLP(3, 1, 8, 1, key=jr.key(0)))
    with pytest.raises(ValueError, match='"nngp" or "ntk"'):
        of(network(1.0), "both")
    several = nn.Sequential([nn.Conv(8, 3), nn.Relu()])
    images = jr.normal(jr.key(2), (3, 2, 6))
    with pytest.raises(ValueError, match=r"at several positions.*GlobalAvgPool"):
        of(several)(images, images)


@pytest.mark.parametrize("name", ["tinygp", "gpjax"])
def test_a_library_that_is_missing_is_asked_for(name, monkeypatch):
    for module in [name, f"eqtangents.{name}"]:
        for loaded in [m for m in sys.modules if f"{m}.".startswith(f"{module}.")]:
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"eqtangents\[{name}\]"):
        importlib.import_module(f"eqtangents.{name}")
