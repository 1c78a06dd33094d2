"""Sums of Hermite terms, differentiated by the variance of either end."""

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

import eqtangents as eqt
from eqtangents import nn
from eqtangents.duals import _hermite_sums as sums
from precision import by_precision


# With variances of zero, where other numbers stand in for the coefficients.
VARIANCES = [0.0, 0.3, 1.0, 2.5], [1.7, 0.0, 0.4]


def by_coefficient(rows_of, variance, *, fixed):
    """Coefficients of which no change with the variance is known beforehand."""
    return sums.coefficients_of(rows_of, variance, fixed=False)


def total(name):
    """A number that depends on both sums, for all pairs of inputs."""
    dual = getattr(nn, name)().dual

    def of(cov, var1, var2):
        grids = jnp.broadcast_arrays(cov, var1[:, None], var2[None, :])
        value, derivative = dual(*grids)
        return jnp.sum(jnp.sin(value) + derivative**2)

    return of


@pytest.mark.parametrize("name", ["Tanh", "Sigmoid", "Elu"])
@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_are_those_of_every_coefficient(monkeypatch, name, order):
    var1, var2 = (jnp.asarray(variance, float) for variance in VARIANCES)
    cov = 0.4 * jnp.sqrt(var1[:, None] * var2[None, :])

    def derivatives():
        function = total(name)
        if order == 1:
            return jax.jit(jax.grad(function, (0, 1, 2)))(cov, var1, var2)
        along = lambda t: function(cov * (1 + t), var1 + t, var2 * (1 - t))
        return [jax.jit(jax.grad(jax.grad(along)))(0.1)]

    found = derivatives()
    monkeypatch.setattr("eqtangents.duals._expanded.coefficients_of", by_coefficient)
    for one, other in zip(found, derivatives(), strict=True):
        scale = float(jnp.abs(other).max())
        atol = by_precision(float64=1e-9, float32=2e-4) * scale
        assert_allclose(one, other, rtol=0, atol=atol)


@pytest.mark.precision("float32")
def test_no_coefficient_is_summed_over_pairs_by_itself(monkeypatch):
    net = nn.Sequential([nn.Linear(1), nn.Tanh(), nn.Linear(1)])

    def sums_of_gradient(n):
        x = jax.ShapeDtypeStruct((n, 3), jnp.float32)
        gradient = jax.grad(lambda x1, x2: jnp.sum(eqt.ntk(net, x1, x2)))
        return str(jax.make_jaxpr(gradient)(x, x)).count("= reduce_sum[")

    found = sums_of_gradient(40)
    monkeypatch.setattr("eqtangents.duals._expanded.coefficients_of", by_coefficient)
    assert found + 40 < sums_of_gradient(41)  # There are 54 coefficients.
