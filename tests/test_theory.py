"""Laws of spectra, learning curves and parameters."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
from hypothesis import given, settings

import eqtangents as eqt
from eqtangents import nn, theory


pytestmark = pytest.mark.precision("float64")


def network(function, depth=1):
    hidden = [nn.Linear(1), function] * depth
    return nn.Sequential([*hidden, nn.Linear(1)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_modes_on_a_sphere_add_up_to_the_kernel(kind):
    dim, degrees = 5, 40
    net = network(nn.Erf())
    modes = theory.modes_on_sphere(net, dim, degrees, kind=kind)
    x = jr.normal(jr.key(0), (7, dim))
    x *= jnp.sqrt(dim) / jnp.linalg.norm(x, axis=1, keepdims=True)
    kernel = getattr(eqt, kind)(net, x)
    np.testing.assert_allclose(modes.tail, 0, atol=1e-9)
    np.testing.assert_allclose(
        modes.eigenvalues @ modes.multiplicities, kernel[0, 0], rtol=1e-9
    )
    # Addition theorem: a target of one centre is one column of the kernel.
    powers = theory.power_on_sphere(modes, jnp.ones(1), x[:1])
    np.testing.assert_allclose(
        powers, modes.eigenvalues**2 * modes.multiplicities, rtol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 3, 6])
def test_multiplicities_count_harmonics(dim):
    modes = theory.modes_on_sphere(network(nn.Erf()), dim, 4)
    second = dim * (dim + 1) / 2 - 1
    np.testing.assert_allclose(modes.multiplicities[:3], [1, dim, second])


@pytest.mark.slow
def test_odd_degrees_of_relu_have_no_eigenvalue():
    modes = theory.modes_on_sphere(network(nn.Relu()), 10, 8)
    assert jnp.all(modes.eigenvalues[jnp.array([0, 1, 2, 4, 6])] > 0)
    np.testing.assert_allclose(modes.eigenvalues[jnp.array([3, 5, 7])], 0, atol=1e-8)


def relu_kernel(angle):
    """The arc-cosine kernel of order 1 of inputs of unit mean square."""
    return (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)


def by_quadrature(kernel, dim, degree):
    """The eigenvalue of a kernel of the angle, and how many there are."""

    def polynomial(t):
        last, one = np.ones_like(t), t
        for k in range(1, degree):
            last, one = one, ((2 * k + dim - 2) * t * one - k * last) / (k + dim - 2)
        return last if degree == 0 else one

    mean = lambda f: scipy.integrate.quad(
        lambda angle: f(angle) * np.sin(angle) ** (dim - 2),
        0,
        np.pi,
        epsabs=1e-14,
        points=[np.pi / 2],
    )[0]
    of_angle = lambda angle: kernel(angle) * polynomial(np.cos(angle))
    return mean(of_angle) / mean(np.ones_like)


@pytest.mark.quick(1)
@pytest.mark.parametrize("dim", [1000, 2, 3])
def test_modes_are_integrals_in_any_dimension(dim):
    modes = theory.modes_on_sphere(network(nn.Relu()), dim, 30, kind="nngp")
    for degree in (0, 1, 2, 4):
        expected = by_quadrature(relu_kernel, dim, degree)
        np.testing.assert_allclose(modes.eigenvalues[degree], expected, rtol=1e-4)
    # Of degrees that rounding hides there are many: none has more than there is.
    traces = modes.eigenvalues * modes.multiplicities
    assert jnp.all(jnp.abs(traces) <= 0.5)
    np.testing.assert_allclose(traces.sum() + modes.tail, 0.5, rtol=1e-6)


@pytest.mark.slow
def test_what_has_no_modes_on_a_sphere_is_refused():
    both = nn.Sequential([nn.Linear(1), nn.FanOut(2)])
    with pytest.raises(ValueError, match="has 2 outputs"):
        theory.modes_on_sphere(both, 3, 4)
    with pytest.raises(RuntimeError, match="Begin with weights"):
        theory.modes_on_sphere(nn.Sequential([nn.Relu(), nn.Linear(1)]), 3, 4)


spectra = st.lists(st.floats(1e-4, 10.0), min_size=4, max_size=4)


def one_sided(function, h):
    """The derivative at zero, by a difference of numbers that are not below."""
    ahead = [function(jnp.asarray(k * h)) for k in range(4)]
    weights = (-11 / 6, 3.0, -1.5, 1 / 3)
    return sum(w * f for w, f in zip(weights, ahead, strict=True)) / h


def curve_of(values, *, ridge=0.0, noise=0.0, tail=0.0):
    values = jnp.array(values)
    counts = jnp.arange(1.0, 1 + values.shape[0])
    modes = theory.KernelModes(values, counts, jnp.asarray(tail))
    power = jnp.sqrt(values)
    return theory.LearningCurve(modes, power, ridge=ridge, noise=noise)


@settings(max_examples=20)
@given(spectra, st.floats(0.0, 2.0), st.floats(0.0, 1.0), st.floats(0.1, 0.9))
def test_learnability_is_conserved(values, ridge, tail, part):
    curve = curve_of(values, ridge=ridge, tail=tail)
    n = part * float(curve.modes.multiplicities.sum())
    learned = curve.learnability(n) @ curve.modes.multiplicities
    rest = (ridge + tail) / curve.kappa(n)
    np.testing.assert_allclose(learned + rest, n, rtol=1e-10)


@pytest.mark.slow
@settings(max_examples=10)
@given(spectra, st.floats(0.01, 2.0), st.floats(0.0, 1.0))
def test_errors_begin_at_the_power_and_add_up(values, ridge, noise):
    curve = curve_of(values, ridge=ridge, noise=noise)
    n = jnp.array([1e-9, 0.5, 1.0, 2.0])
    error = curve.test_error(n)
    whole = curve.target_power.sum() + noise
    np.testing.assert_allclose(error[0], whole, rtol=1e-6)
    np.testing.assert_allclose(curve.bias(n) + curve.variance(n), error, rtol=1e-12)
    assert jnp.all(curve.variance(n) >= 0)
    assert jnp.all(jnp.diff(curve.bias(n)) <= 0)
    without_noise = curve_of(values, ridge=ridge).test_error(n)
    np.testing.assert_allclose(
        curve.test_error_by_mode(n).sum(-1), without_noise, rtol=1e-10
    )


def test_all_is_learned_where_examples_outnumber_modes():
    curve = curve_of([1.0, 0.5, 0.0])
    assert curve.kappa(4.0) == 0
    np.testing.assert_allclose(curve.learnability(4.0), [1.0, 1.0, 0.0])


def test_least_squares_with_more_examples_than_modes():
    """Without a ridge: the errors of linear regression, as every textbook has them."""
    curve, n, rank = curve_of([1.0, 0.5, 0.0], noise=0.1), 7.0, 3
    np.testing.assert_allclose(curve.test_error(n), 0.1 * n / (n - rank), rtol=1e-12)
    np.testing.assert_allclose(curve.train_error(n), 0.1 * (n - rank) / n, rtol=1e-12)
    # The smallest ridge that there is makes no difference.
    close = curve_of([1.0, 0.5, 0.0], noise=0.1, ridge=1e-12)
    for error in ("test_error", "train_error", "variance"):
        np.testing.assert_allclose(
            getattr(curve, error)(n), getattr(close, error)(n), rtol=1e-10
        )


@pytest.mark.slow
@pytest.mark.parametrize("n", [1.5, 6.0])
@pytest.mark.parametrize(
    "field", ["kappa", "bias", "variance", "test_error", "train_error"]
)
def test_a_ridge_of_zero_has_derivatives_of_all_orders(field, n):
    """By differences to one side, for fewer examples than modes and for more."""
    of = lambda ridge: getattr(curve_of([1.0, 0.5], ridge=ridge, noise=0.1), field)(n)
    orders = [of]
    for _ in range(3):
        orders.append(jax.jit(jax.grad(orders[-1])))
    for function, derivative in itertools.pairwise(orders):
        difference = one_sided(function, 1e-4)
        np.testing.assert_allclose(derivative(0.0), difference, rtol=1e-5, atol=1e-6)


def test_as_many_examples_as_modes_are_a_pole_of_noise_alone():
    for field in ("test_error", "variance"):
        assert getattr(curve_of([1.0, 0.5], noise=0.1), field)(3.0) == jnp.inf
        assert getattr(curve_of([1.0, 0.5]), field)(3.0) == 0
    assert curve_of([1.0, 0.5], noise=0.1).train_error(3.0) == 0


@pytest.mark.slow
@given(st.floats(-12, -2), st.floats(-30, -2), st.floats(-30, -2))
def test_small_numbers_keep_their_digits(gap, ridge, power):
    """Of one mode the sum rule is a quadratic equation, and errors are fractions."""
    low, ridge, power = 10**gap, 10**ridge, 10**power
    modes = theory.KernelModes(jnp.array([1.0, low]), jnp.ones(2), jnp.asarray(0.0))
    # Without a ridge and at one example, the resolution is the geometric mean.
    bare = theory.LearningCurve(modes, jnp.zeros(2))
    np.testing.assert_allclose(bare.kappa(1), low**0.5, rtol=1e-11)
    one = theory.KernelModes(jnp.array([1.0]), jnp.ones(1), jnp.asarray(0.0))
    curve = theory.LearningCurve(one, jnp.array([power]), ridge=ridge)
    kappa = 0.5 * (ridge + (ridge**2 + 4 * ridge) ** 0.5)
    np.testing.assert_allclose(curve.kappa(1), kappa, rtol=1e-11)
    missed, learned = kappa / (1 + kappa), 1 / (1 + kappa)
    np.testing.assert_allclose(curve.bias(1), missed**2 * power, rtol=1e-10)
    spare = learned * missed + ridge / kappa
    np.testing.assert_allclose(
        curve.test_error(1), missed**2 * power / spare, rtol=1e-10
    )
    np.testing.assert_allclose(
        curve.variance(1), missed**2 * power / spare * learned**2, rtol=1e-10
    )


@pytest.mark.slow
def test_curves_are_differentiable():
    curve = lambda ridge: curve_of([3.0, 1.0, 0.2], ridge=ridge, noise=0.1)
    error = lambda ridge: curve(ridge).test_error(2)
    h = 1e-6
    difference = (error(0.3 + h) - error(0.3 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(error)(0.3), difference, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_curve_of_gaussian_features_is_that_of_regression(ridge):
    """Errors of kernel regression itself, on features that the theory assumes."""
    values, n, trials, noise = jnp.arange(1.0, 101) ** -1.5, 25, 200, 0.05
    target = jr.normal(jr.key(0), values.shape) * values**0.5
    modes = theory.KernelModes(values, jnp.ones_like(values), jnp.asarray(0.0))
    curve = theory.LearningCurve(modes, target**2, ridge=ridge, noise=noise)

    def errors(key):
        key_x, key_y = jr.split(key)
        x = jr.normal(key_x, (n, values.shape[0]))
        y = x @ target + noise**0.5 * jr.normal(key_y, (n,))
        features = x * jnp.sqrt(values)[None]
        dual = jnp.linalg.solve(features @ features.T + ridge * jnp.eye(n), y)
        learned = jnp.sqrt(values) * (features.T @ dual)
        test = jnp.sum((learned - target) ** 2) + noise
        return test, jnp.mean((ridge * dual) ** 2)

    test, train = jax.vmap(errors)(jr.split(jr.key(1), trials))
    for seen, expected in ((test, curve.test_error(n)), (train, curve.train_error(n))):
        standard_error = seen.std() / trials**0.5
        # The theory is exact for infinitely many modes and examples.
        np.testing.assert_allclose(
            seen.mean(), expected, atol=5 * standard_error + 0.02 * expected
        )


@pytest.mark.slow
@pytest.mark.usefixtures("without_jaxtyping")
def test_modes_of_data_are_those_of_its_distribution():
    """A sample of a sphere has the sphere's eigenvalues and its target's power."""
    dim, n = 3, 600
    net = network(nn.Erf())
    x = jr.normal(jr.key(0), (n, dim))
    x *= jnp.sqrt(dim) / jnp.linalg.norm(x, axis=1, keepdims=True)
    modes, power = theory.modes_of_data(eqt.ntk(net, x), x[:, :1])
    exact = theory.modes_on_sphere(net, dim, 3)
    np.testing.assert_allclose(
        modes.eigenvalues[:3].mean(), exact.eigenvalues[1], rtol=0.05
    )
    np.testing.assert_allclose(power[:3].sum(), jnp.mean(x[:, 0] ** 2), rtol=0.01)
    with pytest.raises(ValueError, match=r"targets\[:, None\]"):
        theory.modes_of_data(eqt.ntk(net, x[:3]), x[:3, 0])


def test_modes_of_data_know_the_rank_of_a_kernel():
    """What rounding adds to it is not learned."""
    x = jr.normal(jr.key(0), (40, 3))
    modes, power = theory.modes_of_data(x @ x.T, x[:, :1])
    assert jnp.sum(modes.eigenvalues > 0) == 3
    curve = theory.LearningCurve(modes, power, noise=0.1)
    np.testing.assert_allclose(curve.test_error(10.0), 0.1 * 10 / 7, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [2.0, 2.0, 0.0], [2.0, 0.0, 0.0]])
def test_flow_is_differentiable_where_eigenvalues_repeat(values):
    """By differences of kernels that stay positive: to both sides, or to one."""
    half = jr.normal(jr.key(0), (3, 3))
    basis = jnp.linalg.qr(jr.normal(jr.key(1), (3, 3)))[0]
    kernel, change = basis @ jnp.diag(jnp.array(values)) @ basis.T, half @ half.T
    targets, h = jr.normal(jr.key(2), (3, 2)), 1e-4

    for name in ("distance", "information"):

        def of(size, name=name):
            flow = theory.ParameterFlow(kernel + size * change, targets, change)
            return getattr(flow, name)(0.7)

        slope, bend = (jax.jit(f) for f in (jax.grad(of), jax.grad(jax.grad(of))))
        for function, derivative in ((of, slope), (slope, bend)):
            np.testing.assert_allclose(
                derivative(0.0), one_sided(function, h), rtol=1e-5
            )


@pytest.mark.slow
def test_information_grows_with_the_square_of_small_times():
    flow = theory.ParameterFlow(jnp.array([[2.0]]), jnp.array([[3.0]]))
    times = jnp.array([1e-12, 1e-9, 1e-6])
    expected = 0.5 * (2 * (2 * times) ** 2 + 9.0 * 2 * times**2)
    np.testing.assert_allclose(flow.information(times), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [1, 2])
def test_information_is_the_divergence_of_gaussians(outputs):
    """Against means and covariances of all parameters of a linear model."""
    features = jr.normal(jr.key(0), (4, 9)) / 3
    targets = jr.normal(jr.key(1), (4, outputs))
    flow = theory.ParameterFlow(features @ features.T, targets)
    values, vectors = jnp.linalg.eigh(features @ features.T)
    for t in (0.1, 1.0):
        gain = vectors @ jnp.diag(-jnp.expm1(-values * t) / values) @ vectors.T
        shrink = jnp.eye(9) - features.T @ gain @ features
        covariance, mean = shrink @ shrink.T, features.T @ gain @ targets
        log_determinant = jnp.linalg.slogdet(covariance)[1]
        of_one = jnp.trace(covariance) - 9 - log_determinant
        divergence = 0.5 * (outputs * of_one + jnp.sum(mean**2))
        np.testing.assert_allclose(flow.information(t), divergence, rtol=1e-10)
        # A network that is zero at first moves by the mean alone.
        np.testing.assert_allclose(flow.distance(t), jnp.sum(mean**2), rtol=1e-10)
    growth = jax.grad(flow.information)(100.0)
    np.testing.assert_allclose(growth, outputs * values.sum(), rtol=1e-6)
    # What has no eigenvalue is not learned, ever.
    one = theory.ParameterFlow(jnp.diag(jnp.array([0.5, 0.0])), jnp.ones((2, 1)))
    ends = one.information(jnp.asarray([3.0, jnp.inf]))
    known = theory.ParameterFlow(jnp.array([[0.5]]), jnp.ones((1, 1))).information(3.0)
    np.testing.assert_allclose(ends, [known, jnp.inf])


@pytest.mark.slow
def test_distance_is_that_of_trained_parameters():
    features = jr.normal(jr.key(0), (3, 400)) / 20
    targets, t = jnp.array([[1.0], [-0.5], [2.0]]), jnp.asarray([0.7, jnp.inf])
    kernel = features @ features.T
    flow = theory.ParameterFlow(kernel, targets, kernel)
    theta = jr.normal(jr.key(1), (4000, 400))
    values, vectors = jnp.linalg.eigh(kernel)
    for i, time in enumerate(t):
        gain = vectors @ jnp.diag(-jnp.expm1(-values * time) / values) @ vectors.T
        moved = (targets.T - theta @ features.T) @ gain @ features
        squares = jnp.sum(moved**2, 1)
        error = squares.std() / 4000**0.5
        np.testing.assert_allclose(
            flow.distance(t)[i], squares.mean(), atol=5 * float(error)
        )


@pytest.mark.usefixtures("without_jaxtyping")
def test_alignment_is_that_of_centred_kernels():
    x = jr.normal(jr.key(0), (6, 4))
    one, other = x @ x.T, jnp.exp(x @ x.T)
    value = theory.alignment(one, other)
    assert 0 < value < 1
    np.testing.assert_allclose(theory.alignment(3 * one + 2, one), 1, rtol=1e-12)
    np.testing.assert_allclose(theory.alignment(other, one), value, rtol=1e-12)
    assert theory.alignment(one + 2, one, centred=False) < 1
    with pytest.raises(ValueError, match="one size"):
        theory.alignment(one, other[:3, :3])


@pytest.mark.quick(1)
@pytest.mark.parametrize("size", [1.0, 1e200, 1e-200])
def test_alignment_knows_no_size_and_no_constant_kernel(size):
    x = jr.normal(jr.key(0), (6, 4))
    one, other = x @ x.T, jnp.exp(x @ x.T)
    value = theory.alignment(one, other)
    np.testing.assert_allclose(theory.alignment(size * one, other), value, rtol=1e-12)
    constant = jnp.full((6, 6), 0.1 * size)
    assert jnp.isnan(theory.alignment(constant, other))
    assert theory.alignment(constant, other, centred=False) > 0


EYE = np.eye(3)


def modes(values=EYE[0], counts=EYE[0] + 1, tail=0.0):
    return theory.KernelModes(values, counts, tail)


def sphere(dim=3):
    return theory.KernelModes(jnp.ones(3), jnp.array([1.0, dim, 5.0]), 0.0)


# The attempt, its error, and what the message has in it.
REFUSED = {
    "alignment of another thing": (lambda: theory.alignment("x", EYE), "`k1` is 'x'"),
    "alignment of both kernels": (
        lambda: theory.alignment(eqt.kernel(network(nn.Erf()), EYE), EYE),
        r"pass its `\.ntk`",
    ),
    "alignment of features": (lambda: theory.alignment(EYE[:2], EYE), "square matrix"),
    "alignment of NaN": (lambda: theory.alignment(EYE, EYE * np.nan), "not finite"),
    "alignment of nothing": (lambda: theory.alignment(EYE[:0, :0], EYE), "square"),
    "complex kernel": (lambda: theory.alignment(EYE + 0j, EYE), "real numbers"),
    "modes of a slanted kernel": (
        lambda: theory.modes_of_data(np.triu(EYE + 1), EYE),
        "`kernel` is not symmetric",
    ),
    "modes of a negative kernel": (
        lambda: theory.modes_of_data(-EYE, EYE),
        "`kernel` is not positive semi-definite",
    ),
    "targets of NaN": (
        lambda: theory.modes_of_data(EYE, EYE * np.nan),
        "`targets` holds",
    ),
    "as many counts": (lambda: modes(counts=EYE[0, :2]), "one number for each"),
    "negative counts": (lambda: modes(counts=-EYE[0]), "`multiplicities`"),
    "negative tail": (lambda: modes(tail=-1.0), "`tail`"),
    "modes with power": (
        lambda: theory.LearningCurve(theory.modes_of_data(EYE, EYE), EYE[0]),
        "first of two",
    ),
    "power per target": (
        lambda: theory.LearningCurve(modes(), EYE),
        "one number for each",
    ),
    "coefficients for power": (
        lambda: theory.LearningCurve(modes(), -EYE[0]),
        "take the squares",
    ),
    "negative ridge": (
        lambda: theory.LearningCurve(modes(), EYE[0], ridge=-1.0),
        "`ridge`",
    ),
    "several noises": (
        lambda: theory.LearningCurve(modes(), EYE[0], noise=EYE[0]),
        "one number",
    ),
    "no examples": (
        lambda: theory.LearningCurve(modes(), EYE[0]).test_error(jnp.arange(3)),
        "`n` must be above zero",
    ),
    "infinitely many": (
        lambda: theory.LearningCurve(modes(), EYE[0]).kappa(jnp.inf),
        "`n` holds",
    ),
    "a word of examples": (
        lambda: theory.LearningCurve(modes(), EYE[0]).kappa("3"),
        "`n` is '3'",
    ),
    "centres of unit norm": (
        lambda: theory.power_on_sphere(sphere(), jnp.ones(3), jnp.eye(3)),
        r"jnp\.sqrt\(dim\)",
    ),
    "centres of another sphere": (
        lambda: theory.power_on_sphere(sphere(4), jnp.ones(3), 3**0.5 * jnp.eye(3)),
        "of another dimension",
    ),
    "coefficients of two targets": (
        lambda: theory.power_on_sphere(sphere(), jnp.eye(3), 3**0.5 * jnp.eye(3)),
        r"\(centres, dim\)",
    ),
    "flow of a negative kernel": (
        lambda: theory.ParameterFlow(-EYE, EYE),
        "`ntk` is not positive semi-definite",
    ),
    "flow of other sizes": (
        lambda: theory.ParameterFlow(EYE, EYE, EYE[:2, :2]),
        "`nngp` has shape",
    ),
    "times before training": (
        lambda: theory.ParameterFlow(EYE, EYE).distance(-1.0),
        "`t` must be",
    ),
}


@pytest.mark.quick(2)
@pytest.mark.usefixtures("without_jaxtyping")
@pytest.mark.parametrize(("attempt", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(attempt, said):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=said):
        attempt()
