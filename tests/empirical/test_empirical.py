"""Kernels of finite networks: axes, arguments, operators and errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from jax import lax

import eqtangents as eqt
from eqtangents import nn
from precision import by_precision


NET = nn.Sequential(
    [
        nn.Conv(3, (3,), padding="SAME", bias_std=0.3),
        nn.Relu(),
        nn.Repeat(nn.Sequential([nn.Conv(3, (1,)), nn.Erf()]), 2),
    ]
)


def tolerance():
    return by_precision(float64=1e-9, float32=1e-3)


@pytest.fixture(scope="module")
def case(precision):
    """A network with outputs of two axes, batches, and its kernel by brute force."""
    keys = jr.split(jr.key(0), 3)
    model = NET.init((2, 4), key=keys[0])
    x1, x2 = jr.normal(keys[1], (3, 2, 4)), jr.normal(keys[2], (2, 2, 4))
    parameters, rest = eqx.partition(model, eqx.is_inexact_array)

    def jacobian(x):
        outputs = lambda p: jax.vmap(eqx.combine(p, rest))(x)
        found = jax.tree.leaves(jax.jacrev(outputs)(parameters))
        return jnp.concatenate([j.reshape(*x.shape[:1], 3, 4, -1) for j in found], -1)

    full = lambda x, y: jnp.einsum("iabp,jcdp->ijabcd", jacobian(x), jacobian(y))
    return model, x1, x2, full(x1, x2), full(x1, x1)


@pytest.mark.parametrize("way", ["auto", "structured", "jacobian", "vector_products"])
@pytest.mark.parametrize("chunk_size", [None, 1, 5, 13])
@pytest.mark.slow
@pytest.mark.precision("float64")  # the same steps in each
def test_chunks_and_ways_do_not_change_the_kernel(case, way, chunk_size):
    model, x1, x2, truth, symmetric = case
    options = {"implementation": way, "chunk_size": chunk_size}
    np.testing.assert_allclose(
        eqt.empirical_ntk(model, x1, x2, trace_axes=(), **options),
        truth,
        atol=tolerance(),
    )
    averaged = jnp.einsum("ijabad->ijbd", symmetric) / 3
    np.testing.assert_allclose(
        eqt.empirical_ntk(model, x1, trace_axes=(0,), **options),
        averaged,
        atol=tolerance(),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trace_axes", "diagonal_axes", "equation", "size"),
    [
        ((0,), (), "ijabad->ijbd", 3),
        ((-1,), (), "ijabcb->ijac", 4),
        ((1, 0), (), "ijabab->ij", 12),
        ((), (0,), "ijabad->ijabd", 1),
        ((), (1, 0), "ijabab->ijba", 1),
        ((0,), (-1,), "ijabab->ijb", 3),
    ],
)
def test_axes(case, trace_axes, diagonal_axes, equation, size):
    model, x1, x2, truth, _ = case
    axes = {"trace_axes": trace_axes, "diagonal_axes": diagonal_axes}
    kernel = eqt.empirical_kernel(model, x1, x2, **axes)
    np.testing.assert_allclose(
        kernel.ntk, jnp.einsum(equation, truth) / size, atol=tolerance()
    )
    f1, f2 = jax.vmap(model)(x1), jax.vmap(model)(x2)
    nngp = jnp.einsum(equation, jnp.einsum("iab,jcd->ijabcd", f1, f2)) / size
    np.testing.assert_allclose(kernel.nngp, nngp, atol=tolerance())


@pytest.mark.slow
def test_leaves_add_up(case):
    model, x1, x2, truth, _ = case
    by_leaf = eqt.empirical_ntk_by_leaf(model, x1, x2, trace_axes=())
    parts = jax.tree.leaves(by_leaf)
    assert len(parts) == 3
    np.testing.assert_allclose(sum(parts), truth, atol=tolerance())
    spec = eqx.tree_at(
        lambda m: m.layers[0].bias, jax.tree.map(lambda _: False, model), True
    )
    alone = eqt.empirical_ntk(model, x1, x2, trainable=spec, trace_axes=())
    np.testing.assert_allclose(by_leaf.layers[0].bias, alone, atol=tolerance())


def test_complex_parameters_are_two_real_ones(getkey):
    real, imaginary, xs = (jr.normal(getkey(), (n, 3)) for n in (4, 4, 2))
    function = lambda w, x: jnp.abs(w @ lax.complex(x, 0.0 * x)) ** 2
    found = eqt.empirical_ntk(
        function, xs, None, lax.complex(real, imaginary), trace_axes=()
    )
    split = lambda p, x: (p[0] @ x) ** 2 + (p[1] @ x) ** 2
    truth = eqt.empirical_ntk(split, xs, None, (real, imaginary), trace_axes=())
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-5)


def test_half_precision_sums_in_single(getkey):
    w, xs = jr.normal(getkey(), (2, 512)), jr.normal(getkey(), (3, 512))
    function = lambda w, x: jnp.tanh(w @ x / 16)
    truth = eqt.empirical_ntk(function, xs, None, w, trace_axes=())
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (xs, w))
    found = eqt.empirical_ntk(function, half[0], None, half[1], trace_axes=())
    assert found.dtype == jnp.bfloat16
    scale = float(jnp.abs(truth).max())
    assert float(jnp.abs(found.astype(truth.dtype) - truth).max()) < 0.05 * scale


def test_batch_as_one_example(getkey):
    w, xs = jr.normal(getkey(), (3, 2)), jr.normal(getkey(), (4, 3))
    normed = lambda w, batch: jax.nn.standardize(batch @ w, axis=0)
    found = eqt.empirical_ntk(normed, xs[None], None, w, trace_axes=())
    jacobian = jax.jacrev(lambda w: normed(w, xs))(w)
    truth = jnp.einsum("iapq,jbpq->iajb", jacobian, jacobian)
    np.testing.assert_allclose(found[0, 0], truth, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_explanation_names_ways_and_parameters(case):
    model, x1, x2, *_ = case
    text = str(eqt.explain_empirical_ntk(model, x1, x2))
    for word in ("structured", "jacobian", "vector_products", "* ", "layers[0].weight"):
        assert word in text


@pytest.mark.slow
def test_structure_is_chosen_where_it_is_cheap():
    wide = nn.Sequential([nn.Linear(512), nn.Relu(), nn.Linear(512), nn.Relu()])
    model = wide.init((8,), key=jr.key(0))
    found = eqt.explain_empirical_ntk(model, jnp.ones((4, 8)), trace_axes=(0,))
    assert found.choice.name == "structured"
    jacobian = next(c for c in found.candidates if c.name == "jacobian")
    assert found.choice.cost.peak < jacobian.cost.peak / 10


@pytest.mark.slow
def test_operator_is_the_kernel(case):
    model, x1, x2, truth, symmetric = case
    operator = eqt.NTKOperator(model, x1, x2)
    matrix = jnp.einsum("ijabcd->iabjcd", truth).reshape(36, 24)
    np.testing.assert_allclose(operator.as_matrix(), matrix, atol=tolerance())
    np.testing.assert_allclose(operator.T.as_matrix(), matrix.T, atol=tolerance())
    assert not lx.is_symmetric(operator)
    square = eqt.NTKOperator(model, x1)
    assert lx.is_positive_semidefinite(square)
    gram = jnp.einsum("ijabcd->iabjcd", symmetric).reshape(36, 36)
    for estimate, exact in (
        (eqt.estimate_trace, jnp.trace(gram)),
        (eqt.estimate_effective_rank, jnp.trace(gram) ** 2 / jnp.sum(gram**2)),
        (eqt.estimate_diagonal, jnp.diag(gram).reshape(3, 3, 4)),
    ):
        found = estimate(square, jr.key(1), 400)
        error = jnp.abs(found.mean - exact)
        slack = 1e-5 * jnp.max(jnp.abs(exact))  # rounding, where nothing varies
        assert jnp.all(error < 5 * found.standard_error + slack), estimate.__name__


@pytest.mark.slow
def test_operator_solves(getkey):
    model = nn.Linear(1, bias_std=1.0).init((6,), key=getkey())
    x, y = jr.normal(getkey(), (4, 6)), jr.normal(getkey(), (4, 1))
    operator = eqt.NTKOperator(model, x)
    solution = lx.linear_solve(operator, y, lx.CG(rtol=1e-6, atol=1e-6)).value
    np.testing.assert_allclose(operator.mv(solution), y, atol=1e-3)


@pytest.mark.slow
def test_errors_say_what_to_do(case, without_jaxtyping):
    model, x1, *_ = case
    for call, words in (
        (lambda: eqt.empirical_ntk(NET, x1), "No leaf"),
        (lambda: eqt.empirical_ntk(jnp.ones(2), x1), "cannot be called"),
        (lambda: eqt.empirical_ntk(model, x1, trace_axes=(2,)), "one example"),
        (
            lambda: eqt.empirical_ntk(model, x1, trace_axes=(0,), diagonal_axes=(-2,)),
            "twice",
        ),
        (lambda: eqt.empirical_ntk(model, x1, x1[:, :, :2]), "must be what"),
        (lambda: eqt.empirical_ntk(model, jnp.ones(())), "must be a batch"),
        (lambda: eqt.empirical_ntk(model, x1, chunk_size=0), "chunk_size"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
