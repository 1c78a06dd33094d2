"""`Elementwise` is quick to build, exact where it can be, and honest elsewhere."""

import dataclasses
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents.duals import (
    FittedDual,
    Pair,
    PiecewisePolynomialDual,
    _expansion_fit,
)
from eqtangents.duals._sampled import SampledFunction
from precision import DTYPE, by_precision


# As many standard deviations as fits begin with, of values and slopes, of even and odd
# terms. What an expansion is no use for is not fitted more closely than that.
FEWEST_FITTED = 4 * 8


def snake(x):
    return x + jnp.sin(x) ** 2


def cut(x):
    return jnp.where(x < 1, jnp.sin(3 * x), 2.0)


def square_wave(x):
    return jnp.sign(jnp.sin(x))


@dataclasses.dataclass
class Built:
    """A layer, or the error instead, and what it took."""

    layer: nn.Elementwise | ValueError
    warnings: list[str]
    points: int  # at which the function was evaluated
    fitted: int  # standard deviations for which terms were chosen


@pytest.fixture
def build(monkeypatch):
    """Builds a layer, and counts the work."""
    counts = {"points": 0, "fitted": 0}
    sample, choose = SampledFunction.__call__, _expansion_fit.TermChoice.__init__

    def counted_sample(self, x):
        counts["points"] += np.size(x)
        return sample(self, x)

    def counted_choice(self, sums, parity):
        counts["fitted"] += sums.norm.size
        choose(self, sums, parity)

    monkeypatch.setattr(SampledFunction, "__call__", counted_sample)
    monkeypatch.setattr(_expansion_fit.TermChoice, "__init__", counted_choice)

    def build(fn, **options):
        counts.update(points=0, fitted=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                layer = nn.Elementwise(fn, **options)
            except ValueError as error:
                layer = error
        return Built(layer, [str(w.message) for w in caught], **counts)

    return build


# Functions made of polynomials, and their values and slopes by NumPy.
PIECES = {
    "hard_tanh": lambda x: jax.nn.hard_tanh(x),
    "relu6": lambda x: jnp.clip(x, 0, 6),
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_swish": lambda x: x * jax.nn.relu6(x + 3) / 6,
    "sparse_plus": jax.nn.sparse_plus,
    "shifted absolute value": lambda x: jnp.abs(x - 0.7),
    "leaky kink": lambda x: jnp.where(x > -0.3, x, 0.1 * x - 0.27),
    "shrinkage": lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0),
    "triangle": lambda x: jnp.maximum(1 - jnp.abs(x), 0),
    "step": lambda x: jnp.where(x > 0.4, 1.0, -1.0),
    "square of a rectifier": lambda x: jnp.maximum(x + 0.2, 0) ** 2,
    "two sides": lambda x: jnp.where(x < 0, x**2, -x),
}
each_of_pieces = pytest.mark.parametrize("fn", PIECES.values(), ids=PIECES.keys())


def mean_over_a_fine_grid(f, g, std1, std2, correlation):
    """`E f(u) g(v)` by the midpoint rule in two dimensions.

    Breakpoints of the outer function that are multiples of 0.01 are between points.
    """
    z = np.linspace(-8.5, 8.5, 3401)
    weight = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    rest = np.sqrt(1 - correlation**2)
    rows = [
        f(std1 * a) * np.sum(weight * g(std2 * (correlation * a + rest * z)))
        for a in z[2::4]
    ]
    return 4 * np.sum(weight[2::4] * np.array(rows))


@pytest.mark.slow
@each_of_pieces
def test_polynomials_between_breakpoints_have_a_closed_form(build, fn):
    built = build(fn)
    layer = built.layer
    assert isinstance(layer.dual, PiecewisePolynomialDual)
    assert not built.warnings
    assert built.fitted == 0
    # Kinks and jumps between points of the grid are what its error comes from.
    plain = lambda x: np.asarray(fn(jnp.asarray(x, DTYPE)), np.float64)
    for std1, std2, correlation in ((1.0, 1.0, 0.5), (0.5, 3.0, -0.8)):
        v1, v2 = (jnp.asarray([s * s], DTYPE) for s in (std1, std2))
        cov = jnp.asarray([correlation * std1 * std2], DTYPE)
        value, _ = layer.dual(cov, v1, v2)
        exact = mean_over_a_fine_grid(plain, plain, std1, std2, correlation)
        scale = np.sqrt(layer.dual.diagonal(v1)[0] * layer.dual.diagonal(v2)[0])
        assert abs(value[0] - exact) < 3e-3 * scale


@pytest.mark.quick(10)
@each_of_pieces
def test_pieces_are_those_of_the_function(fn):
    """Base and breakpoints add up to it, from very small to very large inputs."""
    pieces = nn.Elementwise(fn).dual.function
    x = np.concatenate([[0.0], np.geomspace(1e-6, 50, 1000)])
    x = np.concatenate([-x, x])
    total = np.polynomial.polynomial.polyval(x, pieces.coefficients)
    for one in pieces.breaks:
        beyond = one.side * (x - one.at)
        powers = np.polynomial.polynomial.polyval(beyond, one.weights)
        total += np.where(beyond > 0, powers, 0)
    exact = np.asarray(fn(jnp.asarray(x, DTYPE)), np.float64)
    far = np.abs(x[:, None] - [one.at for one in pieces.breaks]).min(1) > 1e-5
    np.testing.assert_allclose(total[far], exact[far], 1e-6, 1e-6)


@pytest.mark.slow
@pytest.mark.precision("float64")  # differences need it
@each_of_pieces
@pytest.mark.sampled(2)
def test_derivatives_of_both_orders(fn):
    """In covariance and variances, against differences of the expectations."""
    dual = nn.Elementwise(fn).dual
    m, h = jnp.asarray((0.35, 0.9, 1.7)), 1e-5

    def value(m):
        return jnp.stack(dual(*m))

    first = jax.jacrev(value)
    orders = jax.jit(lambda m: (value(m), first(m), jax.jacfwd(first)(m)))
    moved = [(orders(m + e), orders(m - e)) for e in h * jnp.eye(3)]
    for i in (0, 1):
        differences = [(up[i] - down[i]) / (2 * h) for up, down in moved]
        exact = jnp.stack(differences, -1)
        np.testing.assert_allclose(orders(m)[i + 1], exact, 1e-6, 1e-7)
    if not any(one.weights[0] for one in dual.function.breaks):
        (_, slope), jacobian, _ = orders(m)
        np.testing.assert_allclose(jacobian[0, 0], slope, rtol=1e-10)


@pytest.mark.slow
@each_of_pieces
def test_at_coincident_opposite_and_zero_inputs(fn):
    dual = nn.Elementwise(fn).dual
    v = jnp.asarray([1.0, 1.0, 0.0, 0.0, 0.3], DTYPE)
    w = jnp.asarray([1.0, 1.0, 1.0, 0.0, 0.3], DTYPE)
    cov = jnp.asarray([1.0, -1.0, 0.0, 0.0, 0.0], DTYPE)
    total = lambda *m: jnp.sum(jnp.stack(dual(*m)))
    first = jax.grad(total, (0, 1, 2))(cov, v, w)
    slopes = lambda *m: sum(jnp.sum(g) for g in jax.grad(total, (0, 1, 2))(*m))
    second = jax.grad(slopes, (0, 1, 2))(cov, v, w)
    assert jnp.all(jnp.isfinite(jnp.stack([*first, *second])))
    at_zero = fn(jnp.zeros((), DTYPE))
    value, _ = dual(cov, v, w)
    assert value[3] == pytest.approx(float(at_zero) ** 2, abs=1e-6)


@pytest.mark.parametrize("variance", [1e2, 1e4, 1e6, 1e12])
def test_large_variances_are_right_or_no_number(variance):
    """A bounded function is a difference of terms of the size of the variance."""
    std = variance**0.5
    exact = 1 - (2 / np.pi) ** 0.5 * (2 / 3) / std  # E min(u^2, 1), to 1 / s^3
    found = nn.HardTanh().dual.diagonal(jnp.asarray([variance], DTYPE))[0]
    assert np.isnan(found) or found == pytest.approx(exact, rel=2e-3)
    assert np.isfinite(found) or variance > by_precision(float64=1e11, float32=1e3)


@pytest.mark.slow
def with_own_derivative(fn, slope):
    """A function whose derivative is another function than its own."""
    own = jax.custom_jvp(fn)
    own.defjvp(lambda x, dx: (own(*x), slope(*x) * dx[0]))
    return own


@pytest.mark.parametrize(
    ("fn", "slope"),
    [
        (jnp.tanh, jnp.ones_like),
        (jnp.tanh, jnp.zeros_like),
        (jnp.sign, lambda x: 1 - jnp.tanh(x) ** 2),
        (jax.nn.relu, jax.nn.sigmoid),
    ],
    ids=["straight through", "stopped", "surrogate", "smooth"],
)
def test_a_derivative_that_a_function_defines_is_taken_as_it_is(fn, slope):
    of_value, of_slope = nn.Elementwise(fn).dual, nn.Elementwise(slope).dual
    variances = np.array([0.0, 0.3, 1.0, 4.0], DTYPE)
    left, right = np.meshgrid(variances, variances)
    for correlation in (-1.0, -0.4, 0.0, 0.9, 1.0):
        cov = (correlation * np.sqrt(left * right)).astype(DTYPE)
        found = FittedDual(with_own_derivative(fn, slope))(cov, left, right)
        expected = of_value(cov, left, right)[0], of_slope(cov, left, right)[0]
        atol = by_precision(float64=2e-5, float32=1e-4)
        np.testing.assert_allclose(found, expected, atol=atol)


def test_linear_functions_and_rectifiers_have_their_own_closed_form():
    for fn, expected in (
        (lambda x: jnp.maximum(x, 0), nn.Relu()),
        (lambda x: jnp.where(x < 0, 0.2 * x, 3 * x), nn.ABRelu(0.2, 3.0)),
        (lambda x: 0.5 - x + x**3, nn.Polynomial((0.5, -1.0, 0.0, 1.0))),
        (jax.nn.relu, nn.Relu()),
        (jnp.sin, nn.Sin()),
        (jax.scipy.special.erf, nn.Erf()),
        (jax.nn.relu6, nn.Relu6()),
        (jax.nn.hard_tanh, nn.HardTanh()),
    ):
        x = jr.normal(jr.key(0), (3, 4), DTYPE)
        layer = nn.Elementwise(fn)
        assert not isinstance(layer.dual, FittedDual)
        np.testing.assert_array_equal(
            layer.errors(jnp.ones(2, DTYPE)), jnp.zeros((2, 2))
        )
        a, b = (
            eqt.ntk(nn.Sequential([nn.Linear(1, weight_std=2), f, nn.Linear(1)]), x)
            for f in (layer, expected)
        )
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_known_functions_are_not_evaluated(build):
    for fn in (jax.nn.relu, jnp.abs, jnp.sign, jax.nn.relu6, jnp.exp):
        assert build(fn).points == 0
    assert build(lambda x: x**2).points > 0


@pytest.mark.slow
def test_oscillating_functions_expand(build):
    built = build(snake, tolerance=1e-5)
    assert not built.warnings
    found = built.layer.errors(jnp.geomspace(1e-2, 30, 20, dtype=DTYPE))
    assert max(map(jnp.max, found)) < 1e-5


@pytest.mark.slow
def test_a_tolerance_that_is_nearly_kept_is_a_warning(build):
    built = build(jax.nn.soft_sign, tolerance=1e-6)
    (message,) = built.warnings
    assert "off by up to" in message
    assert "holds at variances up to" in message
    # The error that it tells of bounds that of what the layer does.
    error = float(message.split("off by up to ")[1].split(",")[0])
    found = built.layer.errors(jnp.geomspace(1e-2, 30, 20, dtype=DTYPE))
    assert max(map(jnp.max, found)) <= error + by_precision(float64=0, float32=3e-6)
    assert not build(jax.nn.soft_sign, tolerance=2 * error).warnings


@pytest.mark.parametrize("fn", [cut, square_wave])
def test_a_tolerance_that_is_missed_by_far_is_an_error(build, fn):
    built = build(fn)
    assert built.fitted <= FEWEST_FITTED
    assert not built.warnings
    assert isinstance(built.layer, ValueError)
    for advice in ("tolerance", "largest_variance", "dual"):
        assert advice in str(built.layer)


def test_what_is_not_elementwise_is_refused():
    for fn, came in (
        (jnp.sum, r"\[\]"),
        (lambda x: x > 0, "bool"),
        (lambda x: (x, x), "tuple"),
    ):
        with pytest.raises(ValueError, match=f"same shape, but makes .*{came}"):
            nn.Elementwise(fn)


def test_not_a_function_is_refused(without_jaxtyping):
    with pytest.raises(TypeError, match="must be a function"):
        nn.Elementwise("tanh")  # pyright: ignore[reportArgumentType]


@pytest.mark.precision("float64")  # it enters the other one itself
@pytest.mark.slow
def test_accuracy_is_that_of_the_inputs_and_not_of_when_it_was_made():
    with jax.enable_x64(False):
        layer = nn.Elementwise(jax.nn.mish)
    variance = jnp.asarray([0.1, 1.0, 10.0])
    assert max(jnp.max(e) for e in layer.errors(variance)) < 1e-6
    terms = [
        len(layer.dual.fit(np.dtype(d))[0].value.exponents)
        for d in ("float32", "float64")
    ]
    assert terms[0] < terms[1]


@pytest.mark.slow
def test_parameters_that_are_traced_are_expanded_as_they_are():
    x = jr.normal(jr.key(0), (3, 4), DTYPE)

    def kernel(a):
        layer = nn.Elementwise(lambda x: jnp.clip(x, -a, a))
        return eqt.nngp(nn.Sequential([nn.Linear(1), layer]), x)

    one = jnp.ones((), DTYPE)
    np.testing.assert_allclose(
        eqx.filter_jit(kernel)(one), kernel(one), rtol=1e-2, atol=1e-4
    )


@pytest.mark.slow
def test_inputs_that_nearly_coincide_are_told_by_their_gap():
    """In single precision as in double: the correlation alone would be rounded to 1."""
    dual = nn.HardTanh().dual
    gap = jnp.asarray([0.0, 1e-12, 1e-8, 1e-6, 1e-4, 0.1], DTYPE)
    prepared = dual.prepare(jnp.full_like(gap, 1.5))
    slopes = dual.moments(Pair(1.5 - gap, gap), prepared, prepared).derivative
    # Each of two bounds is between the inputs with about this probability.
    density = np.exp(-1 / 3) / np.sqrt(2 * np.pi * 1.5)
    expected = slopes[0] - 2 * density * jnp.sqrt(gap / np.pi)
    np.testing.assert_allclose(slopes[:-1], expected[:-1], rtol=4e-7)
    assert slopes[-1] == pytest.approx(float(expected[-1]), rel=1e-2)


MIXING = {
    "softmax": jax.nn.softmax,
    "centred": lambda x: x - jnp.mean(x),
    "of length one": lambda x: x / jnp.linalg.norm(x),
    "over the largest": lambda x: x / jnp.max(jnp.abs(x)),
    "over the median": lambda x: x - jnp.median(x),
    "sums so far": lambda x: jnp.cumsum(x, -1),
    "sorted": jnp.sort,
    "reversed": lambda x: x[::-1],
}


@pytest.mark.precision("float32")
@pytest.mark.parametrize("name", MIXING)
def test_functions_that_mix_entries_are_refused(name):
    with pytest.raises(ValueError, match="must map each entry by itself"):
        nn.Elementwise(MIXING[name])
