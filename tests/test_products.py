"""Products of the library's own matrices have all digits, on every device.

GPUs multiply float32 with ten bits unless a product asks for more. A CPU never shows
it: what is asked for is read from the programs.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax import lax

import eqtangents as eqt
from eqtangents import nn, predict, solvers, theory


pytestmark = pytest.mark.precision("float32")  # of float64 no device drops digits

NET = nn.Sequential([nn.Linear(8), nn.Tanh(), nn.Linear(1)])
X = jr.normal(jr.key(0), (7, 3), jnp.float32)
X_TEST = jr.normal(jr.key(1), (4, 3), jnp.float32)
Y = jnp.sin(X)
KEY = jr.key(2)


def kernels(x):
    return eqt.kernel(NET, x), eqt.kernel(NET, X_TEST, x)


def posterior(x):
    (train, test), variance = kernels(x), jnp.ones(4, x.dtype)
    process = predict.GaussianProcess(train.nngp, Y, noise=0.1)
    more = process.variance(test.nngp, variance), process.log_marginal_likelihood()
    return process.mean(test.nngp), more, process.leave_one_out()


def trained(x):
    train, test = kernels(x)
    flow = predict.GradientDescentMSE(train.ntk, Y)
    return flow.train_outputs(1.0), flow.test_outputs(1.0, test.ntk)


def ensemble(x):
    train, test = kernels(x)
    found = predict.Ensemble(train, Y)
    variance = eqt.nngp(NET, X_TEST)
    return found.mean(1.0, test), found.covariance(1.0, test, variance)


def solved(x):
    operator = eqt.GramOperator(NET, x, noise=0.1)
    solver = solvers.BlockCG(preconditioner=solvers.rp_cholesky(operator, 3, KEY))
    solution = solvers.solve(operator, Y, solver=solver).value
    return solution, solvers.log_determinant(operator, key=KEY).mean


def flow(x):
    train = kernels(x)[0]
    moved = theory.ParameterFlow(train.ntk, Y).distance(1.0)
    return moved, theory.modes_of_data(train.ntk, Y)


CALLS = {
    call.__name__: call
    for call in (kernels, posterior, trained, ensemble, solved, flow)
}


def products(jaxpr: Any) -> Iterator[Any]:
    """All products of a program, also in the programs within."""
    for equation in jaxpr.eqns:
        if equation.primitive is lax.dot_general_p:
            yield equation
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_product_is_left_to_the_device(call):
    """Nor in gradients, whose programs have those of the values in them."""

    def total(x):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(call(x)))

    program = jax.make_jaxpr(jax.grad(total))(X)
    found = list(products(program.jaxpr))
    assert found
    full = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    assert [str(one) for one in found if one.params["precision"] != full] == []
