"""What `lineax` asks of an `NTKOperator`, and kernels of one part given to others."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn, predict
from eqtangents._sampling import Sampled, kernels_of_samples
from precision import by_precision


def atol():
    return by_precision(float64=1e-9, float32=1e-4)


def outputs(p, x):
    """Two outputs of different shapes."""
    hidden = jnp.tanh(p["v"] @ x)
    return {"a": jnp.sin(p["w"] @ hidden), "b": jnp.sum(hidden**2)}


def operators():
    keys = jr.split(jr.key(0), 5)
    params = {"v": jr.normal(keys[0], (3, 4)), "w": jr.normal(keys[1], (2, 3))}
    x1, x2, x3 = (
        jr.normal(key, (n, 4)) for key, n in zip(keys[2:], (3, 3, 2), strict=True)
    )
    yield "symmetric", eqt.NTKOperator(outputs, x1, None, params)
    yield "square", eqt.NTKOperator(outputs, x1, x2, params)
    yield "tall", eqt.NTKOperator(outputs, x1, x3, params)
    yield "wide", eqt.NTKOperator(outputs, x3, x1, params)
    one = lambda p, x: outputs(p, x)["b"]
    yield "number", eqt.NTKOperator(one, x1[:1], None, params)
    yield "empty", eqt.NTKOperator(outputs, x1[:0], None, params)


KINDS = ["symmetric", "square", "tall", "wide", "number", "empty"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_lineax_sees_the_matrix(kind):
    operator = dict(operators())[kind]
    matrix = operator.as_matrix()
    rows, columns = matrix.shape
    assert (operator.out_size(), operator.in_size()) == (rows, columns)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol())
    close(lx.diagonal(operator), jnp.diagonal(matrix))
    near = (jnp.diagonal(matrix, offset) for offset in (0, -1, 1))
    if kind != "empty":
        for found, expected in zip(lx.tridiagonal(operator), near, strict=True):
            close(found, expected)
    vector = jax.tree.map(
        lambda s: jnp.arange(s.size, dtype=s.dtype).reshape(s.shape),
        operator.in_structure(),
    )
    ravel = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
    product = matrix @ ravel(vector)
    symmetric = kind in ("symmetric", "number", "empty")
    for other in map(lambda f: f(operator), (lx.materialise, lx.linearise, lx.conj)):
        close(other.as_matrix(), matrix)
        close(ravel(other.mv(vector)), product)
        close(other.T.as_matrix(), matrix.T)
        assert lx.is_positive_semidefinite(other) == symmetric
        assert lx.is_symmetric(other) == symmetric
    assert isinstance(lx.materialise(operator), lx.PyTreeLinearOperator)
    for test in (
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
    ):
        assert test(operator) == (kind == "number")
    assert not lx.has_unit_diagonal(operator)
    assert not lx.is_negative_semidefinite(operator)


def test_every_function_of_lineax_is_registered():
    functions = [f for f in vars(lx).values() if callable(getattr(f, "register", None))]
    functions = [f for f in functions if callable(getattr(f, "dispatch", None))]
    assert len(functions) >= 12
    general = [
        f.__name__
        for f in functions
        if f.dispatch(eqt.NTKOperator) is f.dispatch(object)
    ]
    assert general == []


@pytest.mark.slow
def test_solver_takes_diagonal_of_sums():
    _, operator = next(operators())
    noise = 0.5 * lx.IdentityLinearOperator(operator.in_structure())
    expected = jnp.diagonal(operator.as_matrix()) + 0.5
    np.testing.assert_allclose(lx.diagonal(operator + noise), expected, atol=atol())


NET = nn.Sequential([nn.Linear(32), nn.Relu(), nn.Linear(2)])


@pytest.mark.slow
def test_all_agree_on_traced_axes(getkey):
    x, y = jr.normal(getkey(), (4, 3)), jr.normal(getkey(), (4, 1))
    model = NET.init((3,), key=getkey())
    infinite, finite = eqt.kernel(NET, x), eqt.empirical_kernel(model, x)
    sampled = eqt.monte_carlo(NET, x, None, getkey(), 2).mean
    assert type(infinite) is type(finite) is type(sampled) is eqt.Kernel
    for kernel in (infinite, finite, sampled):
        assert kernel.ntk.shape == kernel.nngp.shape == (4, 4)
        assert predict.Ensemble(kernel, y).train_mean(1.0).shape == (4, 1)
    whole = eqt.empirical_ntk(model, x, trace_axes=())
    traced = jnp.einsum("ijaa->ij", whole) / 2
    np.testing.assert_allclose(finite.ntk, traced, atol=atol())
    np.testing.assert_allclose(eqt.empirical_ntk(model, x), traced, atol=atol())
    np.testing.assert_allclose(
        eqt.empirical_ntk(model, x, trace_axes=0), traced, atol=atol()
    )
    by_leaf = jax.tree.leaves(eqt.empirical_ntk_by_leaf(model, x))
    np.testing.assert_allclose(sum(by_leaf), traced, atol=atol())
    np.testing.assert_allclose(
        eqt.empirical_ntk(model, x, diagonal_axes=0),
        jnp.einsum("ijaa->ija", whole),
        atol=atol(),
    )


@pytest.mark.slow
def test_scalar_outputs_have_no_channels(getkey):
    mlp = eqx.nn.MLP(3, "scalar", 4, 1, key=getkey())
    x = jr.normal(getkey(), (4, 3))
    expected = eqt.empirical_ntk(mlp, x, trace_axes=())
    np.testing.assert_allclose(eqt.empirical_ntk(mlp, x), expected, atol=atol())
    sampled = eqt.monte_carlo(lambda key: mlp, x, None, getkey(), 2)
    np.testing.assert_allclose(sampled.mean.ntk, expected, atol=atol())


def test_kernels_of_several_outputs(getkey):
    net = nn.Sequential([nn.Linear(8), nn.FanOut(2)])
    x = jr.normal(getkey(), (3, 2))
    model = net.init((2,), key=getkey())
    infinite, finite = eqt.kernel(net, x), eqt.empirical_kernel(model, x)
    assert jax.tree.structure(infinite) == jax.tree.structure(finite)


@pytest.mark.slow
def test_values_of_masked_outputs(getkey):
    values = jr.normal(getkey(), (2, 3, 4))
    masked = nn.Masked(values, jnp.asarray([[1, 1, 1, 0], [1, 0, 1, 1]]) == 1)
    net = nn.Sequential([nn.Conv(5, 3, padding="SAME"), nn.Relu()])
    model = net.init((3, 4), key=getkey())
    found = eqt.empirical_nngp(model, masked)
    f = jax.vmap(model)(masked).value
    np.testing.assert_allclose(
        found, jnp.einsum("icp,jcq->ijpq", f, f) / 5, atol=atol()
    )
    assert eqt.empirical_ntk(model, masked).shape == (2, 2, 4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
def test_one_kernel_alone_is_that_of_both(kind, getkey):
    x, key = jr.normal(getkey(), (3, 4)), getkey()
    alone = eqt.monte_carlo(NET, x, None, key, 4, kernels=kind)
    both = eqt.monte_carlo(NET, x, None, key, 4)
    for part in ("mean", "standard_error"):
        np.testing.assert_allclose(
            getattr(alone, part), getattr(getattr(both, part), kind), atol=atol()
        )
    (last,) = eqt.running_monte_carlo(NET, x, None, key, [4], kernels=kind)
    np.testing.assert_allclose(last.mean, alone.mean, atol=atol())


@pytest.mark.slow
def test_nngp_alone_has_no_derivatives():
    layer = lambda: nn.Conv(64, (3, 3), padding="SAME")
    layers = [layer(), nn.Relu(), layer(), nn.Relu(), nn.GlobalAvgPool()]
    x, keys = jnp.ones((4, 3, 6, 6)), jr.split(jr.key(0), 1)

    def operations(kernels):
        sampled = Sampled(nn.Sequential(layers), x, None, None, kernels, None, ())
        program = kernels_of_samples.lower(sampled, keys).compile()
        return program.compiled.cost_analysis()["flops"]

    assert operations("both") > 20 * operations("nngp")
