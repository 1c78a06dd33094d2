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


def net():
    return nn.Sequential([nn.Linear(8), nn.Tanh(), nn.Linear(1)])


def inputs(n):
    return jr.normal(jr.key(n), (n, 3), jnp.float32)


def targets():
    return jnp.sin(inputs(7))


def kernels(x):
    return eqt.kernel(net(), x), eqt.kernel(net(), inputs(4), x)


def posterior(x):
    (train, test), variance = kernels(x), jnp.ones(4, x.dtype)
    process = predict.GaussianProcess(train.nngp, targets(), noise=0.1)
    more = process.variance(test.nngp, variance), process.log_marginal_likelihood()
    return process.mean(test.nngp), more, process.leave_one_out()


def trained(x):
    train, test = kernels(x)
    flow = predict.GradientDescentMSE(train.ntk, targets())
    return flow.train_outputs(1.0), flow.test_outputs(1.0, test.ntk)


def ensemble(x):
    train, test = kernels(x)
    found = predict.Ensemble(train, targets())
    variance = eqt.nngp(net(), inputs(4))
    return found.mean(1.0, test), found.covariance(1.0, test, variance)


def solved(x):
    operator = eqt.GramOperator(net(), x, noise=0.1)
    solver = solvers.BlockCG(preconditioner=solvers.rp_cholesky(operator, 3, jr.key(1)))
    solution = solvers.solve(operator, targets(), solver=solver).value
    return solution, solvers.log_determinant(operator, key=jr.key(2)).mean


def flow(x):
    train = kernels(x)[0]
    moved = theory.ParameterFlow(train.ntk, targets()).distance(1.0)
    return moved, theory.modes_of_data(train.ntk, targets())


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

    program = jax.make_jaxpr(jax.grad(total))(inputs(7))
    found = list(products(program.jaxpr))
    assert found
    full = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
    assert [str(one) for one in found if one.params["precision"] != full] == []
