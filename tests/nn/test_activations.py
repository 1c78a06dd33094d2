"""Laws of every nonlinearity. A new one joins by a line in `ACTIVATIONS`."""

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import duals, nn
from eqtangents.testing import check_dual
from precision import DTYPE, is_double


@dataclasses.dataclass(frozen=True)
class Case:
    """A nonlinearity, and what is special about it."""

    make: Callable[[], nn.AbstractActivation]
    rtol: float = 1e-11  # of float64, relative to the larger of `E f f` at either end
    jumps: bool = False  # so that `E f' f'`, of the pieces, is not `d K / d k`
    variances: tuple[float, ...] = (1e-3, 1.0, 10.0)
    breaks: tuple[float, ...] = (0.0,)  # where the function or its slope may jump

    @property
    def layer(self) -> nn.AbstractActivation:
        """Made when it is needed: to fit an expansion takes a second or two."""
        return _made(self.make, is_double())


@functools.cache
def _made(make: Callable, double: bool) -> nn.AbstractActivation:
    """Made once in each precision, on which expansions depend."""
    return make()


def expanded(make, rtol=1e-6, **options):
    return Case(make, rtol, **options)


def smooth_step(x):
    return x * jnp.exp(-0.5 * (x - 1) ** 2) + jnp.cos(x)


def kinked(x):
    return jnp.where(x < 0, jnp.sin(x), 2 * x - 0.3 * x * x)


def jumping(x):
    return jnp.where(x < 0, jnp.exp(0.5 * x), -jnp.cos(x))


def steps(x):
    return jnp.where(x < -0.4, 1 - x, jnp.where(x < 0.7, 2 * x, 3 - 0.2 * x * x))


def squared_cosine(x):
    return jnp.cos(x) ** 2


class SquaredCosineDual(duals.AbstractDual):
    """Of `(1 + cos(2 x)) / 2`, as a user writes it."""

    def prepare(self, variance):
        return jnp.exp(-2 * variance)

    def moments(self, pair, left, right):
        k = 4 * pair.cov
        product = left * right
        value = 1 + left + right + product * jnp.cosh(k)
        return duals.Moments(0.25 * value, product * jnp.sinh(k))

    def diagonal(self, variance):
        return duals.at_equal_inputs(self, variance).value


SMALL = {"variances": (1e-3, 0.3, 2.0)}
ACTIVATIONS = {
    "Relu": Case(nn.Relu),
    "LeakyRelu": Case(lambda: nn.LeakyRelu(0.2)),
    "ABRelu": Case(lambda: nn.ABRelu(-0.7, 1.5)),
    "Abs": Case(nn.Abs),
    "Sign": Case(nn.Sign, jumps=True),
    "RectifiedMonomial_0": Case(lambda: nn.RectifiedMonomial(0), jumps=True),
    "RectifiedMonomial_1": Case(lambda: nn.RectifiedMonomial(1)),
    "RectifiedMonomial_2": Case(lambda: nn.RectifiedMonomial(2)),
    "RectifiedMonomial_5": Case(lambda: nn.RectifiedMonomial(5), **SMALL),
    "Erf": Case(lambda: nn.Erf(1.2, 0.8, -0.3)),
    "SigmoidLike": Case(nn.SigmoidLike),
    "Gelu": Case(nn.Gelu),
    "Sin": Case(nn.Sin),
    "Sin_abc": Case(lambda: nn.Sin(1.2, 0.7, 0.4)),
    "Cos": Case(lambda: nn.Cos(0.9, 1.1)),
    "Cos_abc": Case(lambda: nn.Cos(0.9, 1.1, -0.5)),
    "Rbf": Case(lambda: nn.Rbf(0.6)),
    "Gaussian": Case(lambda: nn.Gaussian(1.3, -0.8)),
    "Gaussian_growing": Case(lambda: nn.Gaussian(1.3, 0.04), **SMALL),
    "Exp": Case(lambda: nn.Exp(0.8, -0.6), **SMALL),
    "Gabor": Case(nn.Gabor),
    "Monomial_0": Case(lambda: nn.Monomial(0)),
    "Monomial_3": Case(lambda: nn.Monomial(3)),
    "Monomial_8": Case(lambda: nn.Monomial(8), **SMALL),
    "Polynomial": Case(lambda: nn.Polynomial((0.3, -0.5, 0.2, 0.0, 0.1))),
    "Hermite_1": Case(lambda: nn.Hermite(1)),
    "Hermite_4": Case(lambda: nn.Hermite(4)),
    "Tanh": expanded(nn.Tanh),
    "Sigmoid": expanded(nn.Sigmoid),
    "Softplus": expanded(nn.Softplus),
    "Silu": expanded(nn.Silu),
    "Elu": expanded(nn.Elu),
    "Elu_alpha": expanded(lambda: nn.Elu(0.5)),
    "Selu": expanded(nn.Selu),
    "Gelu_tanh": expanded(lambda: nn.Gelu(approximate=True)),
    "Elementwise": expanded(lambda: nn.Elementwise(smooth_step)),
    "Elementwise_kinked": expanded(lambda: nn.Elementwise(kinked)),
    "Elementwise_jumping": expanded(
        lambda: nn.Elementwise(jumping), rtol=3e-6, jumps=True
    ),
    "HardTanh": Case(nn.HardTanh, breaks=(-1.0, 1.0)),
    "Relu6": Case(nn.Relu6, breaks=(0.0, 6.0)),
    "Elementwise_quadratic": Case(
        lambda: nn.Elementwise(jax.nn.hard_silu), breaks=(-3.0, 3.0)
    ),
    "Elementwise_steps": Case(
        lambda: nn.Elementwise(steps), jumps=True, breaks=(-0.4, 0.7)
    ),
    "FromDual": Case(
        lambda: nn.FromDual(lambda k, v1, v2: v1 * v2 + 2 * k * k, fn=jnp.square)
    ),
    "FromDual_own": Case(lambda: nn.FromDual(SquaredCosineDual(), fn=squared_cosine)),
}
# Expansions differ in their coefficients alone: of each kind one.
KINDS = {
    name: case
    for name, case in ACTIVATIONS.items()
    if case.rtol < 1e-6 or name in ("Tanh", "Selu", "Elementwise_jumping")
}
each = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=() if name in KINDS else pytest.mark.slow)
        for name, case in ACTIVATIONS.items()
    ],
)
each_kind = pytest.mark.parametrize("case", KINDS.values(), ids=KINDS.keys())
CORRELATIONS = np.array([-1.0, -0.999, -0.6, 0.0, 0.3, 0.9, 0.99999, 1.0])


# Expectations by quadrature in two dimensions, of the function alone.


def legendre(low: np.ndarray, high: np.ndarray, nodes: int):
    """Nodes and weights between bounds, along a new last axis."""
    x, w = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * (high - low)[..., None]
    return low[..., None] + half * (x + 1), half * w


def normal(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


def expectations_by_quadrature(f: Callable, std: np.ndarray) -> np.ndarray:
    """`E f(u) f(v)` for all pairs of `std` and each of `CORRELATIONS`, by their axes.

    `f` may jump at zero. Inside out: `v = s' (r z + q y)`.
    """
    outer = [np.array([-12.0, -3, -0.5, -0.02]), np.array([-3.0, -0.5, -0.02, 0.0])]
    low, high = (np.concatenate([a, -b[::-1]]) for a, b in (outer, outer[::-1]))
    z, weight = (a.ravel() for a in legendre(low, high, 40))
    u = weight * normal(z) * f(std[:, None] * z)
    pairs = np.stack([u @ given(f, std, z, r).T for r in CORRELATIONS], -1)
    above = np.triu(np.ones((std.size, std.size), bool))[..., None]
    return np.where(above, pairs, pairs.swapaxes(0, 1))


def given(f: Callable, std: np.ndarray, z: np.ndarray, correlation: float):
    """`E f(v)` given `z`, for each of `std` and of `z`."""
    rest = np.sqrt((1 - correlation) * (1 + correlation))
    if rest == 0:
        return f(std[:, None] * correlation * z)
    zero = np.clip(-correlation * z / rest, -12, 12)
    total = 0.0
    for low, high in ((np.full_like(zero, -12), zero), (zero, np.full_like(zero, 12))):
        y, weight = legendre(low, high, 160)
        v = f(std[:, None, None] * (correlation * z[:, None] + rest * y))
        total = total + np.sum(weight * normal(y) * v, -1)
    return total


def expectation(
    f: Callable,
    std1: float,
    std2: float,
    correlation: float,
    breaks: tuple[float, ...] = (0.0,),
) -> float:
    """`E f(u) f(v)`, where `f` may jump, inside out: `v = s' (r z + q y)`."""
    places = [0.0, *(t / std1 for t in breaks)]
    if correlation:
        places += [t / (std2 * correlation) for t in breaks]
    near = np.array([-3.0, -0.5, -0.02, 0.0, 0.02, 0.5, 3.0])
    bounds = np.unique(np.clip(np.add.outer(places, near), -12, 12))
    bounds = np.unique([-12.0, *bounds, 12.0])
    z, weight = (a.ravel() for a in legendre(bounds[:-1], bounds[1:], 40))
    u = f(std1 * z)
    rest = np.sqrt((1 - correlation) * (1 + correlation))
    if rest == 0:
        return np.sum(weight * normal(z) * u * f(correlation * std2 * z))
    inner, low = 0.0, np.full_like(z, -12)
    for t in (*breaks, np.inf):
        high = np.clip((t / std2 - correlation * z) / rest, -12, 12)
        y, inner_weight = legendre(low, high, 160 if len(breaks) == 1 else 64)
        v = f(std2 * (correlation * z[:, None] + rest * y))
        inner, low = inner + np.sum(inner_weight * normal(y) * v, 1), high
    return float(np.sum(weight * normal(z) * u * inner))


def function(layer: nn.AbstractActivation) -> Callable:
    return lambda x: np.asarray(layer(jnp.asarray(x, DTYPE)), np.float64)


def slope(layer: nn.AbstractActivation) -> Callable:
    def at(x):
        x = jnp.asarray(x, DTYPE)
        return np.asarray(jax.jvp(layer, (x,), (jnp.ones_like(x),))[1], np.float64)

    return at


# The dual itself.


def moments(case: Case, correlations=CORRELATIONS, dtype=DTYPE):
    """Covariances and variances of pairs, all of some variances with all."""
    v1, v2, r = (
        a.ravel()
        for a in np.meshgrid(
            case.variances, case.variances, correlations, indexing="ij"
        )
    )
    return tuple(jnp.asarray(a, dtype) for a in (r * np.sqrt(v1 * v2), v1, v2))


def by_quadrature(case: Case):
    """`E f f` and `E f' f'` of the pairs of `moments`, and `E f f` of either end."""
    return _by_quadrature(case.layer, case.variances, case.breaks, is_double())


@functools.cache
def _by_quadrature(layer: nn.AbstractActivation, variances, breaks, double: bool):
    std = np.sqrt(variances)
    results = []
    for f in (function(layer), slope(layer)):
        pairs = expectations_by_quadrature(f, std)
        if breaks != (0.0,):
            for i, j in zip(*np.triu_indices(std.size), strict=True):
                pair = [expectation(f, std[i], std[j], r, breaks) for r in CORRELATIONS]
                pairs[i, j] = pairs[j, i] = pair
        own = np.sqrt(np.abs(pairs[np.arange(std.size), np.arange(std.size), -1]))
        scale = np.broadcast_to((own[:, None] * own)[..., None], pairs.shape)
        results += [pairs.ravel(), scale.ravel()]
    return results


@pytest.mark.quick(3)
@each
def test_dual_is_the_expectation(case):
    value, derivative = case.layer.dual(*moments(case))
    exact, scale, slope_exact, slope_scale = by_quadrature(case)
    rtol = case.rtol if is_double() else 1e-4
    error = np.abs(value - exact) / np.maximum(scale, 1e-12)
    slope_error = np.abs(derivative - slope_exact) / np.maximum(slope_scale, 1e-12)
    assert max(error.max(), slope_error.max()) < rtol


# Laws that need no exact value.


@pytest.mark.quick(12)
@each
def test_diagonal_is_that_of_equal_inputs(case, request):
    name = request.node.callspec.id.split("-")[-1].split("_")[0]
    assert type(case.layer).__name__ == name
    variance = jnp.asarray(case.variances, DTYPE)
    value, _ = case.layer.dual(variance, variance, variance)
    diagonal = case.layer.dual.diagonal(variance)
    np.testing.assert_allclose(value, diagonal, rtol=case.rtol if is_double() else 1e-5)


def sum_of_values(dual, cov, v1, v2):
    return jnp.sum(dual(cov, v1, v2)[0])


@each_kind
@pytest.mark.slow
def test_derivative_is_that_of_the_value(case):
    """`E f' f' = d K / d k`, and derivatives are those of finite differences."""
    dual, correlations = case.layer.dual, np.array([-0.99, -0.4, 0.0, 0.7, 0.95])
    cov, v1, v2 = moments(case, correlations)
    gradients = jax.grad(sum_of_values, (1, 2, 3))(dual, cov, v1, v2)
    _, derivative = dual(cov, v1, v2)
    size = jnp.max(jnp.abs(gradients[0]))
    if not case.jumps:
        rtol = 100 * case.rtol if is_double() else 1e-3
        np.testing.assert_allclose(gradients[0], derivative, rtol, rtol * size)
    if is_double():
        # Relative to each, or the smaller variance would not be small beside it.
        steps = [1e-5 * jnp.sqrt(v1 * v2), 1e-5 * v1, 1e-5 * v2]
        moved = [
            tuple(
                m + sign * steps[i] if i == j else m
                for j, m in enumerate((cov, v1, v2))
            )
            for i in range(3)
            for sign in (1, -1)
        ]
        values, _ = dual(*map(jnp.concatenate, zip(*moved, strict=True)))
        above, below = values.reshape(3, 2, -1).swapaxes(0, 1)
        differences = (above - below) / (2 * jnp.stack(steps))
        for gradient, difference in zip(gradients, differences, strict=True):
            atol = 1e-6 * jnp.max(jnp.abs(difference))
            np.testing.assert_allclose(gradient, difference, 1e-4, atol)


@pytest.mark.precision("float64")  # which it has to be compared with
@each
@pytest.mark.slow
def test_single_precision_is_close_to_double(case):
    double = case.layer.dual(*moments(case))
    single = case.layer.dual(*moments(case, dtype=jnp.float32))
    scales = by_quadrature(case)[1::2]
    for a, b, scale in zip(single, double, scales, strict=True):
        assert a.dtype == jnp.float32
        assert (
            np.max(np.abs(np.asarray(a, float) - b) / np.maximum(scale, 1e-12)) < 1e-4
        )


WIDTH = 20_000


@pytest.mark.precision("float64")  # on which statistics do not depend
@each
@pytest.mark.slow
def test_finite_networks_have_these_kernels(case):
    """Averages over the channels of a wide layer are the kernels, to standard error."""
    scale = 0.4 if max(case.variances) < 10 else 1.0
    x = scale * jr.normal(jr.key(0), (4, 3), DTYPE)
    x = jnp.concatenate([x, x[:1], -x[1:2], jnp.zeros((1, 3), DTYPE)])
    first = nn.Linear(WIDTH, weight_std=1.3, bias_std=0.3 * scale)
    kernel = eqt.kernel(nn.Sequential([first, case.layer]), x)
    preactivations = jax.vmap(first.init((3,), key=jr.key(1)))(x)
    gradients = 1.3**2 * (x @ x.T) / 3 + (0.3 * scale) ** 2
    for limit, f in (
        (kernel.nngp, case.layer),
        (kernel.ntk / gradients, slope(case.layer)),
    ):
        features = np.asarray(f(preactivations), np.float64)
        products = features[:, None] * features
        stderr = products.std(-1) / np.sqrt(WIDTH)
        excess = np.abs(products.mean(-1) - limit) - 5 * stderr
        assert excess.max() <= 1e-5 * np.abs(limit).max(), excess.max()
    for gram in (kernel.nngp, kernel.ntk):
        np.testing.assert_array_equal(gram, gram.T)
        eigenvalues = np.linalg.eigvalsh(np.asarray(gram, np.float64))
        assert eigenvalues[0] >= (-1e-10 if is_double() else -1e-4) * eigenvalues[-1]


@pytest.mark.slow
@each_kind
def test_duals_obey_the_laws_for_those_of_users(case):
    layer = case.layer
    check_dual(
        layer.dual,
        layer.function,
        breaks=case.breaks,
        variances=[v for v in case.variances if v > 0.01],
        rtol=max(case.rtol, 1e-7),
    )


# Single ones.


class NaiveReluDual(duals.AbstractDual):
    """Right between the bounds; at them, gradients of angles are not finite."""

    prepare = duals.ReluDual.prepare
    diagonal = duals.ReluDual.diagonal
    negative_slope: float = 0.0
    positive_slope: float = 1.0

    def moments(self, pair, left, right):
        size = left.std * right.std
        cosine = jnp.clip(pair.cov * left.reciprocal * right.reciprocal, -1, 1)
        angle = jnp.arccos(cosine)
        sine = jnp.sqrt(1 - cosine * cosine)
        value = size * (sine + (jnp.pi - angle) * cosine)
        return duals.Moments(value / (2 * jnp.pi), (jnp.pi - angle) / (2 * jnp.pi))


def broken(**methods):
    """The dual of a squared cosine, with other methods, and perhaps homogeneous."""
    return type("BrokenDual", (duals.AbstractDual,), METHODS | methods)()


METHODS = {
    "prepare": SquaredCosineDual.prepare,
    "moments": SquaredCosineDual.moments,
    "diagonal": SquaredCosineDual.diagonal,
}


def changed(**factors):
    """Moments of which some are multiplied."""

    def moments(self, pair, left, right):
        right_ones = METHODS["moments"](self, pair, left, right)
        fields = {name: f * getattr(right_ones, name) for name, f in factors.items()}
        return right_ones._replace(**fields)

    return moments


def steeper_at_zero(self, pair, left, right):
    """Moments that are right, and their derivatives too, but where an input is zero."""
    moments = METHODS["moments"](self, pair, left, right)
    is_zero = jnp.asarray(left == 1, pair.cov.dtype)
    return moments._replace(value=moments.value + 0.1 * is_zero * pair.cov)


BROKEN = {
    "value": (lambda: broken(moments=changed(value=1.01)), r"E f\(u\) f\(v\), by quad"),
    "slope": (
        lambda: broken(moments=changed(derivative=0.99)),
        r"E f'\(u\) f'\(v\), by",
    ),
    "diagonal": (
        lambda: broken(diagonal=lambda self, v: METHODS["prepare"](self, v)),
        "`diagonal`",
    ),
    "stack without its type": (
        lambda: broken(prepare=lambda self, v: jnp.stack([v, v], 1)),
        "`prepare` makes an array of shape",
    ),
    "one number for all pairs": (
        lambda: broken(
            moments=lambda self, *args: METHODS["moments"](self, *args)._replace(
                value=jnp.ones(())
            )
        ),
        "shape",
    ),
    "homogeneous": (lambda: broken(homogeneous=True), "`homogeneous` is true"),
    "gap": (
        lambda: broken(
            moments=lambda self, pair, *prepared: METHODS["moments"](
                self, pair, *prepared
            )._replace(gap=pair.gap)
        ),
        "`gap` or `distance`",
    ),
    "derivative at zero": (
        lambda: broken(moments=steeper_at_zero),
        "in cov, of an input of zero",
    ),
    "double precision": (
        lambda: broken(
            moments=lambda self, *args: duals.Moments(
                *(jnp.asarray(a, float) for a in METHODS["moments"](self, *args)[:2])
            )
        ),
        "is float64 for",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("make", "match"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_duals_are_seen(make, match):
    with pytest.raises(AssertionError, match=match):
        check_dual(make(), squared_cosine, variances=(0.5, 2.0))


@pytest.mark.slow
def test_derivatives_at_equal_inputs_are_seen():
    with pytest.raises(AssertionError, match=r"is (-?inf|nan) at cov = .*, var2 ="):
        check_dual(NaiveReluDual(), jax.nn.relu, variances=(1.0, 4.0))


@pytest.mark.slow
def test_duals_without_a_function_have_laws_too():
    check_dual(duals.ExpNormalizedDual(0.7, -0.4), None, variances=(0.5, 2.0))


def test_every_nonlinearity_is_here():
    named = {name.split("_")[0] for name in ACTIVATIONS}
    exported = {
        cls.__name__
        for cls in vars(nn).values()
        if isinstance(cls, type) and issubclass(cls, nn.AbstractActivation)
    }
    assert exported - {"AbstractActivation", "ExpNormalized"} == named


def test_exp_normalized_is_its_formula_and_no_function():
    layer = nn.ExpNormalized(0.7, -0.4)
    moments = (jnp.asarray([a], DTYPE) for a in (0.3, 0.5, 2.0))
    value, derivative = layer.dual(*moments)
    exponential = np.exp(0.7 * (0.3 - 0.4))
    assert value[0] == pytest.approx(exponential, rel=1e-6)
    assert derivative[0] == pytest.approx(0.7 * exponential, rel=1e-6)
    with pytest.raises(ValueError, match="defined by its kernel"):
        layer(jnp.ones(3))


@pytest.mark.slow
def test_an_activation_of_the_input_is_exact(getkey):
    x = jr.normal(getkey(), (3, 5, 4), DTYPE)
    net = nn.Sequential([nn.Tanh(), nn.Relu(), nn.Conv(4, 3, bias_std=0.1)])
    rest = nn.Conv(4, 3, bias_std=0.1)
    actual, expected = eqt.kernel(net, x), eqt.kernel(rest, jax.nn.relu(jnp.tanh(x)))
    np.testing.assert_allclose(actual.ntk, expected.ntk, rtol=1e-6)
    residual = nn.Residual(nn.Relu())
    with pytest.raises(ValueError, match="correlated"):
        eqt.kernel(residual, x)


@pytest.mark.slow
def test_expansions_in_convolutional_networks(getkey):
    """Coefficients move with positions, and padding stays out of gradients."""
    x = jr.normal(getkey(), (3, 2, 5), DTYPE)

    def net(activation):
        conv = nn.Conv(4, (3,), padding="SAME", weight_std=1.5, bias_std=0.2)
        layers = [conv, activation, conv, activation, nn.GlobalAvgPool()]
        return nn.Sequential(layers)

    closed, expansion = nn.Erf(), nn.Elementwise(lambda x: jax.scipy.special.erf(x))
    total = lambda x, layer: jnp.sum(jnp.sin(eqt.ntk(net(layer), x)))
    for f in (eqt.kernel, lambda net, x: jax.grad(total)(x, net)):
        layers = (closed, expansion)
        a, b = (
            f(net(layer), x) if f is eqt.kernel else f(layer, x) for layer in layers
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), a, b)


@pytest.mark.precision("float32")
def test_functions_with_parameters_are_those_of_numbers(getkey):
    """Modules that hold arrays have no hash, and need none."""

    class Swish(eqx.Module):
        beta: jax.Array | float

        def __call__(self, x):
            return x * jax.nn.sigmoid(self.beta * x)

    x = jr.normal(getkey(), (3, 4))
    kernels = [
        eqt.kernel(nn.Sequential([nn.Linear(4), nn.Elementwise(Swish(beta))]), x)
        for beta in (jnp.asarray(1.5), 1.5)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4), *kernels)


@pytest.mark.slow
def test_parameters_are_differentiated_and_do_not_compile_again(getkey):
    x = jr.normal(getkey(), (3, 4), DTYPE)
    traces = []

    class Swish(eqt.nn.AbstractParameterless):
        beta: jax.Array

        def __call__(self, x, *, key=None):
            traces.append(None)
            return x * jax.nn.sigmoid(self.beta * x)

        def propagate(self, covariance):
            return covariance

    def total(beta):
        layer = nn.Elementwise(Swish(beta))
        return jnp.sum(eqt.nngp(nn.Sequential([nn.Linear(4), layer]), x))

    beta, step = jnp.asarray(1.0, DTYPE), 1e-4 if is_double() else 1e-2
    difference = (total(beta + step) - total(beta - step)) / (2 * step)
    before = len(traces)
    total(beta + 3 * step)
    assert len(traces) == before + 3  # when the layer is made: of shapes and entries
    assert jax.grad(total)(beta) == pytest.approx(float(difference), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Tanh", "Silu", "Selu"])
@pytest.mark.parametrize("std", [3.0, 8.0, 20.0, 100.0])
def test_expansions_are_right_or_no_number(name, std):
    layer = getattr(nn, name)()
    variance = jnp.asarray([std**2], DTYPE)
    value, derivative = layer.dual(*(variance,) * 3)
    z = np.linspace(-10, 10, 200_001)
    weights = 1e-4 * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    z = jnp.asarray(z, DTYPE)
    of_slope = jax.vmap(jax.grad(layer.function))
    for found, fn in ((value, layer.function), (derivative, of_slope)):
        exact = np.sum(np.asarray(fn(std * z)) ** 2 * weights)
        assert np.isnan(found) or found == pytest.approx(exact, rel=0.011)
        assert np.isfinite(found) or std > 5


@pytest.mark.slow
def test_errors_are_estimated_and_the_tolerance_is_kept():
    layer = nn.Elementwise(jnp.tanh, tolerance=1e-4)
    tight = nn.Elementwise(jnp.tanh, tolerance=1e-6 if is_double() else 1e-5)
    assert len(layer.expansion.value.exponents) < len(tight.expansion.value.exponents)
    variance = jnp.asarray([0.01, 1.0, 10.0], DTYPE)
    assert max(jnp.max(e) for e in layer.errors(variance)) < 1e-4
    exact = [nn.Erf().dual(*(variance,) * 3)[0]]
    rough = nn.Elementwise(lambda x: jax.scipy.special.erf(x), tolerance=1e-3)
    value, _ = rough.dual(*(variance,) * 3)
    np.testing.assert_allclose(
        rough.errors(variance)[0], np.abs(value / exact[0] - 1), rtol=0.1, atol=1e-6
    )
    with pytest.raises(ValueError, match="Raise the tolerance"):
        nn.Elementwise(lambda x: jnp.where(x < 1, jnp.sin(3 * x), 2.0))


def test_a_dual_is_a_layer_of_its_own(without_jaxtyping):
    """`Elementwise` takes a function, `FromDual` a dual: each says so of the other."""
    product, dual = (lambda k, v1, v2: k), duals.ReluDual()
    for wrong, error, match in (
        (
            lambda: nn.Elementwise(),
            TypeError,
            "missing 1 required positional argument: 'fn'",
        ),
        (lambda: nn.Elementwise(dual=product), TypeError, r"nn\.FromDual\(dual\)"),
        (
            lambda: nn.FromDual(),
            TypeError,
            "missing 1 required positional argument: 'dual'",
        ),
        (lambda: nn.FromDual(2.0), TypeError, r"`dual` is 2\.0, but must be a func"),
        (lambda: nn.FromDual(duals.ErfDual), TypeError, "the class `ErfDual`"),
        (lambda: nn.FromDual(product, 1.0), TypeError, "`dual_derivative` is 1.0"),
        (lambda: nn.FromDual(dual, product), ValueError, "Leave out"),
        (lambda: nn.FromDual(product, fn=jnp.sum), ValueError, "FromDual: `sum` must"),
        (lambda: nn.FromDual(product)(jnp.ones(3)), ValueError, "given no function"),
    ):
        with pytest.raises(error, match=match):
            wrong()
    assert nn.FromDual(dual).dual is dual


@pytest.mark.slow
def test_duals_take_numbers_and_arrays(without_jaxtyping):
    dual = duals.ErfDual()
    value, derivative = dual(0.3, 1, np.asarray([1.0, 2.0]))
    assert value.shape == derivative.shape == (2,)
    assert value.dtype == jnp.result_type(float)
    one = jnp.asarray([1.0], jnp.float32)
    assert dual(0.3, 1.0, one)[0].dtype == jnp.float32
    assert dual(0.3, 1.0, 1.0)[0] == pytest.approx(2 / np.pi * np.arcsin(0.2))
    for wrong in ("0.3", None, True, [0.3], 0.3j):
        with pytest.raises(TypeError, match=r"`cov` is .* array of real numbers"):
            dual(wrong, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"`cov` of \(2,\), `var1` of \(3,\)"):
        dual(jnp.ones(2), jnp.ones(3), 1.0)
