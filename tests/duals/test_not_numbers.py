"""What is not a number stays none, whatever function it goes through."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents.duals._elementary import may_be_differentiated


def half_step(x):
    """A function that has a number even for NaN."""
    return jnp.where(x > 0, jnp.cos(x), 0.5)


LAYERS = {
    "Relu": nn.Relu,
    "LeakyRelu": lambda: nn.LeakyRelu(0.3),
    "Abs": nn.Abs,
    "Sign": nn.Sign,
    "step": lambda: nn.RectifiedMonomial(0),
    "RectifiedMonomial": lambda: nn.RectifiedMonomial(2),
    "Erf": nn.Erf,
    "Gelu": nn.Gelu,
    "Sin": nn.Sin,
    "Exp": nn.Exp,
    "Rbf": lambda: nn.Rbf(0.1),
    "Gaussian": nn.Gaussian,
    "Gabor": nn.Gabor,
    "ExpNormalized": nn.ExpNormalized,
    "Polynomial": lambda: nn.Polynomial([0.1, 0.8, 0.1]),
    "Tanh": nn.Tanh,
    "Elu": nn.Elu,
    "Elementwise": lambda: nn.Elementwise(half_step),
}


@pytest.mark.parametrize("differentiable", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_expectations_of_what_is_not_a_number(name, differentiable):
    dual, lost = LAYERS[name]().dual, jnp.array([jnp.nan])
    with may_be_differentiated(differentiable):
        assert jnp.isnan(dual.diagonal(lost)).all()
        assert jnp.isnan(dual(lost, lost, jnp.array([2.0]))[0]).all()
        assert jnp.isnan(dual(lost, jnp.array([2.0]), lost)[0]).all()


@pytest.mark.parametrize("name", ["Relu", "Sign", "Gaussian", "Erf", "Elementwise"])
@pytest.mark.parametrize("readout", [nn.Flatten(), nn.GlobalAvgPool()])
def test_examples_that_are_not_numbers_spoil_their_rows_alone(name, readout):
    net = nn.Sequential([nn.Conv(1, 3), LAYERS[name](), readout, nn.Linear(1)])
    x = jr.normal(jr.key(0), (3, 2, 6)).at[1, 0, 2].set(jnp.nan)
    kernel = jax.jit(lambda x: eqt.kernel(net, x))(x)  # where no check of inputs is
    for entries in (kernel.nngp, kernel.ntk):
        lost = jnp.isnan(entries)
        assert lost[1].all()
        assert lost[:, 1].all()
        assert not lost[::2, ::2].any()
