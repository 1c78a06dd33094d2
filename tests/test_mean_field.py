"""Laws of signals in deep networks."""

import functools

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import AxisType, PartitionSpec

import eqtangents as eqt
from eqtangents import mean_field, nn
from eqtangents.nn import LayerError


# Roots and rates are compared to the digits of double precision.
pytestmark = pytest.mark.precision("float64")

FUNCTIONS = (nn.Erf(), nn.Relu(), nn.Sin())
SLOPES = {nn.Erf: jax.scipy.special.erf, nn.Relu: jax.nn.relu, nn.Sin: jnp.sin}
variances = st.floats(0.2, 5.0)
correlations = st.floats(-0.95, 0.95)
functions = st.sampled_from(FUNCTIONS)


def block(function, weight_variance, bias_variance):
    weight_std, bias_std = jnp.sqrt(weight_variance), jnp.sqrt(bias_variance)
    linear = nn.Linear(1, weight_std=weight_std, bias_std=bias_std)
    return nn.Sequential([function, linear])


def residual(function, weight_variance, bias_variance):
    branch = block(function, weight_variance, bias_variance)
    return nn.Sequential(
        [nn.FanOut(2), nn.Parallel([nn.Identity(), branch]), nn.FanInSum()]
    )


@functools.cache
def fixed_points(function):
    """From hyperparameters to the fixed point, compiled once for each function."""
    return eqx.filter_jit(
        lambda w, b: mean_field.CorrelationMap(block(function, w, b)).fixed_point()
    )


def fixed_point(function, weight_variance, bias_variance):
    return fixed_points(function)(
        jnp.asarray(weight_variance), jnp.asarray(bias_variance)
    )


@pytest.mark.slow
@settings(max_examples=6)
@given(functions, variances, variances, variances, correlations, st.booleans())
def test_trajectory_is_the_kernel_of_a_deep_network(
    function, weight_variance, q1, q2, c, skips
):
    one = (residual if skips else block)(function, weight_variance, 0.1)
    states = mean_field.CorrelationMap(one).trajectory(q1, q2, c, 3)
    angle = jnp.arccos(c)
    x = jnp.array([[1.0, 0.0], [jnp.cos(angle), jnp.sin(angle)]])
    x *= jnp.sqrt(2 * jnp.array([[q1], [q2]]))
    kernel = eqt.nngp(nn.Sequential([nn.Linear(1), nn.Repeat(one, 3)]), x)
    covariance = states.c[-1] * jnp.sqrt(states.q1[-1] * states.q2[-1])
    np.testing.assert_allclose(
        [states.q1[-1], states.q2[-1], covariance],
        [kernel[0, 0], kernel[1, 1], kernel[0, 1]],
        rtol=1e-11,
        atol=1e-12,
    )
    np.testing.assert_allclose(states.c[0], c, rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(states.deficit, 1 - states.c, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("function", [nn.Erf(), nn.Sin(), nn.Gelu()], ids=repr)
def test_deficit_keeps_digits_that_the_correlation_has_not(function):
    """Near a correlation of one it is multiplied by chi_1 in each block."""
    one = block(function, 0.9, 0.1)
    end = mean_field.CorrelationMap(one).fixed_point()
    c = 1 - jnp.asarray(1e-9)
    states = mean_field.CorrelationMap(one).trajectory(end.q, end.q, c, 20)
    assert float(states.deficit[-1]) < 1e-11
    rates = states.deficit[1:] / states.deficit[:-1]
    np.testing.assert_allclose(rates, end.chi_1, rtol=1e-6)


@pytest.mark.slow
@settings(max_examples=8)
@given(st.sampled_from((nn.Erf(), nn.Sin())), variances, st.floats(0.01, 1.0))
def test_fixed_points_are_fixed(function, weight_variance, bias_variance):
    one = mean_field.CorrelationMap(block(function, weight_variance, bias_variance))
    end = fixed_point(function, weight_variance, bias_variance)
    after = one(end.q, end.q, end.c)
    np.testing.assert_allclose(after.q1, end.q, rtol=1e-12)
    np.testing.assert_allclose(after.c, end.c, rtol=1e-10, atol=1e-12)
    assert (end.chi_1 > 1) == (end.c < 1)
    assert end.chi_c <= 1 + 1e-9


@pytest.mark.slow
@settings(max_examples=8)
@given(functions, st.floats(0.5, 1.9), st.floats(0.05, 0.5))
def test_chi_is_the_mean_square_of_the_slope(function, weight_variance, bias_variance):
    """By quadrature, which knows nothing of kernels."""
    end = fixed_point(function, weight_variance, bias_variance)
    z, weights = np.polynomial.hermite_e.hermegauss(200)
    slope = jax.vmap(jax.grad(SLOPES[type(function)]))(jnp.sqrt(end.q) * z)
    mean_square = jnp.sum(slope**2 * weights) / weights.sum()
    np.testing.assert_allclose(end.chi_1, weight_variance * mean_square, rtol=1e-8)


@pytest.mark.quick(1)
@pytest.mark.parametrize("weight_variance", [1.3, 4.0])
def test_signals_forget_at_the_rates_of_the_fixed_point(weight_variance):
    one = mean_field.CorrelationMap(block(nn.Erf(), weight_variance, 0.1))
    end = fixed_point(nn.Erf(), weight_variance, 0.1)
    states = one.trajectory(end.q, end.q, end.c - 1e-4, 12)
    off = jnp.abs(states.c - end.c)
    np.testing.assert_allclose(off[-1] / off[-2], end.chi_c, rtol=1e-3)
    np.testing.assert_allclose(
        end.depth_scales.xi_c, -1 / jnp.log(end.chi_c), rtol=1e-12
    )
    q = one.trajectory(end.q * 1.001, end.q, 0.5, 3).q1
    np.testing.assert_allclose((q[2] - end.q) / (q[1] - end.q), end.chi_q, rtol=1e-2)


@pytest.mark.slow
def test_variances_approach_their_end_from_both_sides_in_turn():
    """Where the slope is negative, its size is the rate."""
    one = mean_field.CorrelationMap(block(nn.Gaussian(b=-1.0), 3.0, 0.1))
    end = one.fixed_point()
    off = one.trajectory(end.q * 1.001, end.q, 0.5, 3).q1 - end.q
    assert end.chi_q < 0
    np.testing.assert_allclose(off[2] / off[1], end.chi_q, rtol=1e-2)
    np.testing.assert_allclose(
        jnp.exp(-1 / end.depth_scales.xi_q), -end.chi_q, rtol=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("field", ["q", "c", "chi_q", "chi_1", "chi_c"])
def test_fixed_points_are_differentiable(field):
    def of(weight_variance):
        return getattr(fixed_point(nn.Erf(), weight_variance, 0.1), field)

    w, h = jnp.asarray(3.0), 1e-5
    difference = (of(w + h) - of(w - h)) / (2 * h)
    np.testing.assert_allclose(jax.jvp(of, (w,), (1.0,))[1], difference, rtol=1e-6)


@functools.cache
def with_slopes(function):
    """All numbers of fixed points, and their derivatives in the weights' variance."""

    def numbers(w, b):
        one = mean_field.CorrelationMap(block(function, w, b))
        end = one.fixed_point(jnp.ones_like(w))
        return jnp.stack(jax.tree.leaves((end, end.depth_scales)))

    slopes = lambda w, b: jax.jvp(lambda w: numbers(w, b), (w,), (jnp.ones_like(w),))
    stacked = lambda w, b: jnp.stack(slopes(w, b))
    return jax.jit(jnp.vectorize(stacked, signature="(),()->(orders,numbers)"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "subtracts"), [(nn.Erf(), 0), (nn.Relu(), 0), (nn.Gelu(), 1)]
)
def test_single_precision_is_off_by_its_rounding(function, subtracts):
    """By what it would be if hyperparameters were rounded a few times.

    Derivatives of roots are quotients by `1 - chi_c`, and off by that more. So is all
    of a function whose dual leaves it to a subtraction how far two signals are apart.
    """
    make_block = functools.partial(block, function, bias_variance=0.05)
    edge = mean_field.critical(make_block, (0.5, 4.0))
    factors = jnp.array([0.3, 0.95, 0.99, 0.999, 1.001, 1.01, 1.05, 1.3])
    grid = jnp.meshgrid(edge * factors, jnp.array([0.05, 0.5]))
    w, b = (x.astype("float32") for x in grid)
    single = with_slopes(function)(w, b)
    assert single.dtype == jnp.float32
    single = single.astype("float64")
    w, b = w.astype("float64"), b.astype("float64")
    exact, h = with_slopes(function)(w, b), 1e-6
    change = lambda *moved: jnp.abs(with_slopes(function)(*moved) - exact) / h
    condition = jnp.abs(exact) + change(w * (1 + h), b) + change(w, b * (1 + h))
    gap = jnp.abs(1 - exact[:, :, 0, 4])[..., None, None]
    orders = jnp.array([[0.0], [1.0]])[None, None] + subtracts
    allowed = 32 * float(jnp.finfo("float32").eps) * condition / gap**orders
    np.testing.assert_array_equal(jnp.isnan(single), jnp.isnan(exact))
    same = (single == exact) | jnp.isnan(exact)  # infinite or not numbers, both
    assert jnp.all(same | (jnp.abs(single - exact) <= allowed))


@pytest.mark.slow
def test_critical_line_in_single_precision():
    def edge(dtype):
        start, bias, low, high = jnp.array([1.0, 0.18, 1.0, 3.0], dtype)
        make_block = functools.partial(block, nn.Erf(), bias_variance=bias)
        return mean_field.critical(make_block, (low, high), q0=start)

    single, double = edge("float32"), edge("float64")
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, rtol=8 * jnp.finfo("float32").eps)


@pytest.mark.slow
def test_derivatives_beside_signals_that_grow_for_ever():
    """In the same grid, by either mode of differentiation; they were an error."""
    grid = jnp.array([1.0, 1.5, 2.5])
    diagram = lambda w: mean_field.phase_diagram(
        functools.partial(block, nn.Relu()), w, jnp.array([0.1])
    )
    chi_1 = lambda w: diagram(w).chi_1[:2, 0]
    q = lambda w: diagram(w).q[:2, 0]
    slopes = 0.05 / (1 - grid[:2] / 2) ** 2  # of b / (1 - w / 2)
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jacobian(chi_1)(grid)[:, :2], jnp.eye(2) / 2)
        np.testing.assert_allclose(
            jacobian(q)(grid), jnp.pad(jnp.diag(slopes), ((0, 0), (0, 1)))
        )


@pytest.mark.slow
def test_where_signals_grow_for_ever_or_stay_as_they_are():
    grows = fixed_point(nn.Relu(), 2.5, 0.1)
    assert jnp.isinf(grows.q)
    rest = grows.c, grows.chi_q, grows.chi_1, grows.chi_c, grows.depth_scales
    assert all(jnp.isnan(x) for x in jax.tree.leaves(rest))
    stays = mean_field.CorrelationMap(block(nn.Relu(), 2.0, 0.0)).fixed_point(3.0)
    np.testing.assert_allclose([stays.q, stays.chi_1], [3.0, 1.0], rtol=1e-10)
    vanishes = mean_field.CorrelationMap(block(nn.Relu(), 1.5, 0.0)).fixed_point()
    np.testing.assert_allclose(
        [vanishes.q, vanishes.c, vanishes.chi_1, vanishes.chi_q],
        [0.0, 1.0, 0.75, 0.75],
        atol=1e-12,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "mean_square"),
    [(nn.Relu(), 0.5), (nn.LeakyRelu(0.1), 0.505), (nn.Abs(), 1.0)],
)
@pytest.mark.parametrize("bias_variance", [0.0, 0.1])
def test_signals_of_homogeneous_functions_vanish_or_grow(
    function, mean_square, bias_variance
):
    """Without bias, zero is a fixed point that signals which grow move away from."""
    for scale in (0.3, 0.9, 0.9995, 1.0005, 3.0):
        end = fixed_point(function, scale / mean_square, bias_variance)
        expected = bias_variance / (1 - scale) if scale < 1 else jnp.inf
        np.testing.assert_allclose(end.q, expected, rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(
            end.chi_1, scale if scale < 1 else jnp.nan, rtol=1e-12
        )
    make_block = functools.partial(block, function, bias_variance=bias_variance)
    bracket = (0.1 / mean_square, 3.0 / mean_square)
    critical = mean_field.critical(make_block, bracket)
    np.testing.assert_allclose(critical, 1 / mean_square, rtol=1e-12)


def sign(c, weight_variance, bias_variance):
    """The map of correlations of the sign function, by the arcsine law."""
    total = weight_variance + bias_variance
    return (weight_variance * 2 / np.pi * np.arcsin(c) + bias_variance) / total


@pytest.mark.slow
@pytest.mark.parametrize("weight_variance", [0.5, 1.3, 4.0])
def test_equal_signals_part_by_jumps(weight_variance):
    end = fixed_point(nn.Sign(), weight_variance, 0.1)
    c = 0.5
    for _ in range(400):
        c = sign(c, weight_variance, 0.1)
    np.testing.assert_allclose([end.q, end.c], [weight_variance + 0.1, c], rtol=1e-10)
    np.testing.assert_allclose(
        end.chi_c, (sign(c + 1e-6, weight_variance, 0.1) - c) / 1e-6, rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("weight_variance", [0.5, 1.3, 4.0])
def test_equal_signals_part_by_noise(weight_variance):
    """With dropout a correlation of one is no fixed point, also in order."""
    layers = block(nn.Erf(), weight_variance, 0.1).layers
    one = mean_field.CorrelationMap(
        nn.Sequential([layers[0], nn.Dropout(0.2), layers[1]])
    )
    end = one.fixed_point()
    last = one.trajectory(1.0, 1.0, 0.5, 400)
    assert end.c < 0.999
    np.testing.assert_allclose([end.q, end.c], [last.q1[-1], last.c[-1]], rtol=1e-10)
    off = jnp.abs(one.trajectory(end.q, end.q, end.c - 1e-4, 2).c - end.c)
    np.testing.assert_allclose(off[1] / off[0], end.chi_c, rtol=1e-3)


@pytest.mark.slow
def test_critical_is_where_chi_1_is_one():
    critical = lambda b: mean_field.critical(
        lambda w: block(nn.Erf(), w, b), (jnp.asarray(1.0), 3.0)
    )
    value = critical(0.18)
    end = fixed_point(nn.Erf(), value, 0.18)
    np.testing.assert_allclose(end.chi_1, 1, rtol=1e-12)
    # E f'^2 = 4 / (pi sqrt(1 + 4 q)) for erf: known in closed form.
    np.testing.assert_allclose(
        value * 4 / (jnp.pi * jnp.sqrt(1 + 4 * end.q)), 1, rtol=1e-12
    )
    h = 1e-5
    difference = (critical(0.18 + h) - critical(0.18 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(critical)(0.18), difference, rtol=1e-6)


@pytest.mark.slow
def test_phase_diagram_has_the_fixed_points_of_its_blocks():
    grid = jnp.array([1.0, 2.0, 4.0]), jnp.array([0.05, 0.3])
    diagram = mean_field.phase_diagram(functools.partial(block, nn.Erf()), *grid)
    assert diagram.q.shape == (3, 2)
    for i, j in np.ndindex(3, 2):
        alone = fixed_point(nn.Erf(), grid[0][i], grid[1][j])
        together = jax.tree.map(lambda x, i=i, j=j: x[i, j], diagram)
        for one, other in zip(*map(jax.tree.leaves, (alone, together)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.slow
def test_waves_fade_by_the_transform_of_the_window():
    conv = nn.Conv(1, 3, padding="CIRCULAR", weight_std=1.8, bias_std=0.3)
    one = mean_field.CorrelationMap(nn.Sequential([nn.Erf(), conv]), (8,))
    modes, end = mean_field.spatial_modes(one), one.fixed_point()
    flat = fixed_point(nn.Erf(), 1.8**2, 0.09)
    np.testing.assert_allclose([end.q, end.c], [flat.q, flat.c], rtol=1e-10)
    window = jnp.abs(1 + 2 * jnp.cos(2 * jnp.pi * jnp.arange(8.0) / 8)) / 3
    np.testing.assert_allclose(modes.variance, flat.chi_q * window, atol=1e-9)
    np.testing.assert_allclose(modes.covariance, flat.chi_c * window, atol=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("without_jaxtyping")
def test_what_is_no_block_is_refused():
    conv = lambda **options: nn.Sequential([nn.Erf(), nn.Conv(1, 3, **options)])
    with pytest.raises(TypeError, match=r"tanh.*nn\.Elementwise"):
        mean_field.CorrelationMap(jnp.tanh)
    with pytest.raises(LayerError, match="spatial"):
        mean_field.CorrelationMap(conv())
    with pytest.raises(LayerError, match="follow itself"):
        mean_field.CorrelationMap(conv(stride=2), (8,))
    pool = nn.Sequential([nn.AvgPool(3, padding="SAME"), nn.Erf()])
    with pytest.raises(LayerError, match="different positions"):
        mean_field.CorrelationMap(pool, (8,))
    with pytest.raises(RuntimeError, match="CIRCULAR"):
        mean_field.CorrelationMap(conv(padding="SAME"), (8,))(1.0, 1.0, 0.5)
    with pytest.raises(RuntimeError, match="in one phase"):
        mean_field.critical(lambda w: block(nn.Erf(), w, 0.18), (2.0, 3.0))


@functools.cache
def one_map():
    return mean_field.CorrelationMap(block(nn.Relu(), 1.5, 0.1))


def circular(size):
    conv = nn.Conv(1, 3, padding="CIRCULAR")
    return mean_field.CorrelationMap(nn.Sequential([nn.Relu(), conv]), size)


def family(*values):
    return block(nn.Relu(), *values, *[0.1][len(values) - 1 :])


def end_of(weight_variance):
    return mean_field.CorrelationMap(family(weight_variance)).fixed_point()


# The attempt, and what the message has in it.
REFUSED = {
    "negative variance": (lambda: one_map()(-1.0, 1.0, 0.5), "`q1` is -1.0"),
    "no correlation": (lambda: one_map()(1.0, 1.0, 1.5), "`c` is 1.5"),
    "correlations of NaN": (
        lambda: one_map()(1.0, 1.0, np.array([0.1, np.nan])),
        "`c` must be finite",
    ),
    "complex variance": (lambda: one_map()(1.0, 1j, 0.5), "`q2` is complex"),
    "a word": (lambda: one_map()(1.0, 1.0, "0.5"), "`c` is '0.5'"),
    "other shapes": (
        lambda: one_map()(np.ones(2), np.ones(3), 0.5),
        "do not broadcast",
    ),
    "start below zero": (lambda: one_map().fixed_point(-1.0), "`q0` is -1.0"),
    "start of NaN": (lambda: one_map().fixed_point(np.nan), "`q0` is nan"),
    "one number of positions": (lambda: circular(8), "`size` is 8"),
    "no positions": (lambda: circular((0,)), "tuple of positive integers"),
    "one end": (lambda: mean_field.critical(family, (1.0,)), "two numbers"),
    "ends of a range": (lambda: mean_field.critical(family, "ab"), "two numbers"),
    "end with axes": (
        lambda: mean_field.critical(family, (1.0, np.ones(1))),
        r"`bracket\[1\]` has shape",
    ),
    "several starts": (
        lambda: mean_field.critical(family, (1.0, 3.0), q0=np.ones(2)),
        "`q0` has shape",
    ),
    "block for its family": (
        lambda: mean_field.critical(family(1.0), (1.0, 3.0)),
        "a function from hyperparameters",
    ),
    "bracket of NaN": (
        lambda: mean_field.critical(family, (1.0, np.nan)),
        "`bracket` holds NaN",
    ),
    "roots of negative variances": (
        lambda: mean_field.phase_diagram(family, np.array([1.0, -1.0]), np.ones(2)),
        "The block makes NaN of the variance `q0`",
    ),
    "NaN that is traced": (
        lambda: jax.jit(end_of)(jnp.asarray(-1.0)),
        "The block makes NaN of the variance `q0`",
    ),
    "bracket that is traced": (
        lambda: jax.jit(lambda end: mean_field.critical(family, (end, 1.0)))(-1.0),
        "The block makes NaN of the variance `q0`",
    ),
    "one point": (lambda: mean_field.phase_diagram(family, 1.0, 0.1), "either axis"),
    "a mesh": (
        lambda: mean_field.phase_diagram(family, np.ones((2, 2)), np.ones(2)),
        r"`weight_variances` has shape \(2, 2\)",
    ),
    "waves of a block": (
        lambda: mean_field.spatial_modes(family(1.0)),
        "`correlation_map` is a `Sequential`",
    ),
}


@pytest.mark.quick(2)
@pytest.mark.usefixtures("without_jaxtyping")
@pytest.mark.parametrize(("attempt", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(attempt, said):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=said):
        attempt()


@pytest.mark.slow
def test_correlations_beyond_one_by_rounding_are_one():
    one, beyond = (one_map()(1.0, 1.0, c) for c in (1.0, 1 + 4e-16))
    np.testing.assert_allclose([beyond.c, beyond.deficit], [one.c, 0.0], atol=1e-15)


def end_of_erf(weight_variance):
    return mean_field.CorrelationMap(
        block(nn.Erf(), weight_variance, 0.1)
    ).fixed_point()


def deficits(weight_variance):
    one = mean_field.CorrelationMap(block(nn.Erf(), weight_variance, 0.1))
    return one.trajectory(1.0, 0.7, 0.5, 3).deficit


def waves(weight_variance):
    conv = nn.Conv(1, 3, padding="CIRCULAR", weight_std=weight_variance**0.5)
    one = mean_field.CorrelationMap(nn.Sequential([nn.Erf(), conv]), (4,))
    return mean_field.spatial_modes(one)


def edge(weight_variance):
    """Critical for biases of a tenth of this variance."""
    return mean_field.critical(
        lambda w: block(nn.Erf(), w, 0.1 * weight_variance), (1.0, 3.0)
    )


PARTS = {"fixed points": end_of_erf, "depths": deficits, "waves": waves, "edge": edge}
PARTS |= {"slopes of depths": jax.jacrev(deficits), "slopes of edge": jax.grad(edge)}


def on_mesh(part, devices=4):
    """The same for each of many numbers, which the devices share."""
    axes = (devices,), ("rows",), (AxisType.Auto,)
    mesh = jax.make_mesh(*axes, devices=jax.devices()[:devices])
    rows = PartitionSpec("rows")
    return jax.jit(
        jax.shard_map(jax.vmap(part), mesh=mesh, in_specs=rows, out_specs=rows)
    )


@pytest.mark.quick(1)
@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_devices_of_a_mesh_share_the_work(part):
    """Also where loops begin with constants, which are the same on all devices."""
    at = jnp.array([0.9, 1.4, 2.0, 2.9])
    found, expected = on_mesh(part)(at), jax.jit(jax.vmap(part))(at)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.slow
def test_devices_of_a_mesh_refuse():
    """One device: errors of several are told once more as Python exits."""
    failed = jax.errors.JaxRuntimeError, ValueError  # who of the two tells is JAX's
    with pytest.raises(failed, match="The block makes NaN"):
        on_mesh(end_of, 1)(jnp.array([0.9, -2.0])).q.block_until_ready()
