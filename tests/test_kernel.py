"""Laws of the infinite-width kernels, whatever the network."""

import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.extend
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents._budget import CPU, Budget, under
from eqtangents._tile_plan import tile_sizes
from precision import by_precision, is_double


def conv(**options):
    options = {"padding": "SAME", "weight_std": 1.4, "bias_std": 0.2} | options
    return nn.Conv(4, 3, **options)


def dense(out=4, weight_std=1.4, bias_std=0.1):
    return nn.Linear(out, weight_std=weight_std, bias_std=bias_std)


NETWORKS = {
    "mlp": (nn.Sequential([dense(), nn.Relu(), dense(), nn.Erf(), dense(1)]), (5,)),
    "conv_pool": (
        nn.Sequential(
            [conv(), nn.Relu(), conv(stride=2), nn.Erf(), nn.GlobalAvgPool()]
        ),
        (3, 5, 4),
    ),
    "conv_flatten": (
        nn.Sequential(
            [conv(padding="CIRCULAR"), nn.LeakyRelu(0.3), nn.Flatten(), dense()]
        ),
        (2, 4, 3),
    ),
    "avg_pool": (
        nn.Sequential(
            [conv(), nn.Relu(), nn.AvgPool(2, 2), conv(), nn.Relu(), nn.GlobalAvgPool()]
        ),
        (2, 4, 4),
    ),
    "residual": (
        nn.Sequential(
            [
                conv(),
                nn.Residual(nn.Sequential([nn.Relu(), conv()])),
                nn.Relu(),
                nn.GlobalAvgPool(),
                dense(),
                nn.Relu(),
                dense(),
            ]
        ),
        (2, 3, 4),
    ),
    "repeat": (
        nn.Sequential(
            [
                conv(),
                nn.Repeat(nn.Sequential([nn.Relu(), conv()]), 3),
                nn.GlobalSumPool(),
            ]
        ),
        (2, 5),
    ),
    "spatial": (nn.Sequential([conv(), nn.Relu(), conv()]), (2, 5)),
}
each_network = pytest.mark.parametrize(
    ("net", "shape"), NETWORKS.values(), ids=NETWORKS.keys()
)


def assert_close(a, b, rtol=None):
    rtol = by_precision(float64=1e-10, float32=2e-5) if rtol is None else rtol
    a, b = np.asarray(a), np.asarray(b)
    error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)
    assert error <= rtol, f"relative error {error:.2e} > {rtol:.0e}"


@pytest.mark.slow
@each_network
def test_one_batch_is_two_equal_ones(net, shape, getkey):
    x = jr.normal(getkey(), (4, *shape))
    one, two = eqt.kernel(net, x), eqt.kernel(net, x, x)
    assert_close(one.nngp, two.nngp)
    assert_close(one.ntk, two.ntk, 1e-8 if is_double() else 1e-3)


@pytest.mark.slow
@each_network
def test_symmetric_to_the_last_bit_and_positive(net, shape, getkey):
    x = jr.normal(getkey(), (5, *shape))
    for matrix in (eqt.nngp(net, x), eqt.ntk(net, x)):
        rank = (matrix.ndim - 2) // 2
        rows = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
        size = 5 * int(np.prod(matrix.shape[2 : 2 + rank]))
        square = np.asarray(matrix.transpose(rows)).reshape(size, size)
        assert np.array_equal(square, square.T)
        lowest = np.linalg.eigvalsh(square.astype(np.float64)).min()
        assert lowest > -10 * size * jnp.finfo(matrix.dtype).eps * np.abs(square).max()


@pytest.mark.slow
@each_network
def test_swapping_batches_transposes(net, shape, getkey):
    x1, x2 = jr.normal(getkey(), (3, *shape)), jr.normal(getkey(), (2, *shape))
    there, back = eqt.kernel(net, x1, x2), eqt.kernel(net, x2, x1)
    rank = (there.nngp.ndim - 2) // 2
    swap = (1, 0, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
    assert_close(there.nngp, back.nngp.transpose(swap))
    assert_close(there.ntk, back.ntk.transpose(swap))


@pytest.mark.slow
def test_the_order_of_branches_that_are_set_end_to_end_does_not_matter(getkey):
    # They are stored on canvases of different sizes, 3 and 5.
    branches = [
        conv(stride=2),
        nn.Sequential([conv(padding="VALID"), nn.Relu(), conv()]),
    ]
    x = jr.normal(getkey(), (2, 2, 5, 5))
    one, two = (
        eqt.kernel(
            nn.Sequential(
                [
                    nn.FanOut(2),
                    nn.Parallel(order),
                    nn.FanInConcat(1),
                    nn.GlobalAvgPool(),
                ]
            ),
            x,
        )
        for order in (branches, branches[::-1])
    )
    assert_close(one.nngp, two.nngp)
    assert_close(one.ntk, two.ntk)


@each_network
@pytest.mark.slow
@pytest.mark.parametrize("pairs", [4, 20])
def test_tiles_change_nothing(net, shape, pairs, getkey):
    """With either budget: of few pairs, or of all but a few and no conditionals."""
    x1, x2 = jr.normal(getkey(), (7, *shape)), jr.normal(getkey(), (5, *shape))
    whole = eqt.kernel(net, x1, x2), eqt.kernel(net, x1)
    entry = x1[0, 0].size * x1.dtype.itemsize
    with under(Budget(pairs * entry, 2**28, 2**28, conditionals=pairs == 4)):
        tiled = eqt.kernel(net, x1, x2), eqt.kernel(net, x1)
    assert_close(tiled[0].ntk, whole[0].ntk)
    # Of an example with itself, rounding decides how close to 0 the angle is.
    assert_close(tiled[1].ntk, whole[1].ntk, 1e-7 if is_double() else 1e-3)
    assert_close(tiled[1].nngp, whole[1].nngp)


@pytest.mark.slow
@each_network
def test_each_function_gives_its_part_in_the_type_of_the_inputs(net, shape, getkey):
    x = jr.normal(getkey(), (3, *shape), jnp.float32)
    both = eqt.kernel(net, x)
    assert both.nngp.dtype == both.ntk.dtype == jnp.float32
    assert_close(eqt.nngp(net, x), both.nngp, 1e-6)
    assert_close(eqt.ntk(net, x), both.ntk, 1e-6)


@pytest.mark.slow
@hyp.given(n=st.integers(2, 9), depth=st.integers(0, 3), seed=st.integers(0, 99))
@hyp.settings(max_examples=10)
def test_a_network_of_linear_layers_has_a_linear_kernel(n, depth, seed):
    x = jr.normal(jr.key(seed), (n, 3))
    gram = x @ x.T / 3
    k = eqt.kernel(nn.Sequential([nn.Linear(2, weight_std=1.5)] * (depth + 1)), x)
    assert_close(k.nngp, 2.25 ** (depth + 1) * gram)
    assert_close(k.ntk, (depth + 1) * 2.25 ** (depth + 1) * gram)


@pytest.mark.precision("float64")  # finite differences need it
@each_network
@pytest.mark.slow
def test_gradients_are_those_of_finite_differences(net, shape, getkey):
    x1, x2 = jr.normal(getkey(), (2, *shape)), jr.normal(getkey(), (3, *shape))
    direction = jr.normal(getkey(), x1.shape)

    def total(step):
        k = eqt.kernel(net, x1 + step * direction, x2)
        return jnp.sum(jnp.sin(k.nngp)) + jnp.sum(jnp.sin(k.ntk))

    h = 1e-5
    difference = (total(h) - total(-h)) / (2 * h)
    assert jax.grad(total)(0.0) == pytest.approx(float(difference), rel=1e-5)
    assert jax.jvp(total, (0.0,), (1.0,))[1] == pytest.approx(
        float(difference), rel=1e-5
    )


@pytest.mark.slow
def test_gradients_in_hyperparameters(getkey):
    x, y = jr.normal(getkey(), (3, 2, 4, 4)), jr.normal(getkey(), (2, 2, 4, 4))

    def net_of(weight_std, bias_std):
        layer = nn.Conv(4, 3, padding="SAME", weight_std=weight_std, bias_std=bias_std)
        return nn.Sequential([layer, nn.Relu(), nn.Flatten(), nn.Linear(1)])

    def total(values):
        return jnp.sum(eqt.ntk(net_of(*values), x, y))

    values = jnp.array([1.3, 0.4])
    gradient = jax.grad(total)(values)
    h = 1e-5 if is_double() else 1e-2
    for i in range(2):
        step = jnp.zeros(2).at[i].set(h)
        difference = (total(values + step) - total(values - step)) / (2 * h)
        assert gradient[i] == pytest.approx(
            float(difference), rel=1e-6 if is_double() else 1e-2
        )
    static = eqt.ntk(net_of(1.3, 0.4), x)
    assert_close(eqt.ntk(net_of(*values), x), static, 1e-6)
    mapped = jax.vmap(lambda w: eqt.ntk(net_of(w, values[1]), x))(jnp.array([1.3, 2.0]))
    assert_close(mapped[0], static, 1e-6)


def twice(layer, activation, readout):
    return nn.Sequential([layer, activation, layer, activation, readout])


@pytest.mark.parametrize(
    "net",
    [
        twice(conv(), nn.Relu(), nn.GlobalAvgPool()),
        *(
            twice(dense(), activation, nn.Flatten())
            for activation in (nn.Relu(), nn.LeakyRelu(0.2), nn.Abs(), nn.Erf())
        ),
    ],
    ids=["conv", "relu", "leaky_relu", "abs", "erf"],
)
@pytest.mark.parametrize("kind", ["coincident", "zero", "antipodal"])
@pytest.mark.sampled(4)
@pytest.mark.slow
def test_gradients_are_finite_at_special_inputs(net, kind, getkey):
    x = jr.normal(getkey(), (2, 2, 3, 2))
    other = {"coincident": x, "zero": jnp.zeros_like(x), "antipodal": -x}[kind]

    def total(x1, x2):
        k = eqt.kernel(net, x1, x2)
        return jnp.sum(jnp.sin(k.ntk)) + jnp.sum(k.nngp**2)

    gradients = jax.jit(jax.grad(total, (0, 1)))(x, other)
    assert jnp.all(jnp.isfinite(jnp.stack(gradients)))
    slope = lambda a: jnp.sum(jax.grad(total)(a, other))
    assert jnp.all(jnp.isfinite(jax.jit(jax.grad(slope))(x)))
    own = jax.jit(jax.grad(lambda a: jnp.sum(eqt.ntk(net, a))))(other)
    assert jnp.all(jnp.isfinite(own))


def test_new_hyperparameter_values_do_not_compile_again(getkey):
    x, traces = jr.normal(getkey(), (2, 3)), []

    class Probe(nn.AbstractParameterless):
        def __call__(self, x, *, key=None):
            return x

        def propagate(self, covariance):
            traces.append(None)
            return covariance

    for weight_std in (1.0, 2.0, 3.0):
        layer = nn.Linear(1, weight_std=jnp.asarray(weight_std))
        eqt.ntk(nn.Sequential([layer, Probe()]), x)
        if weight_std == 1.0:
            first = len(traces)
    assert len(traces) == first > 0


@pytest.mark.parametrize("depth", [0, 1, 4])
@pytest.mark.parametrize("name", ["streamed", "pooled", "dense"])
@pytest.mark.slow
def test_repeat_is_its_layer_over_and_over(name, depth, getkey):
    layer, shape = {
        "streamed": (nn.Residual(nn.Sequential([conv(), nn.Relu(), conv()])), (4, 5)),
        "pooled": (
            nn.Sequential(
                [
                    nn.Conv(4, (3,), padding="SAME"),
                    nn.Relu(),
                    nn.AvgPool(3, padding="SAME"),
                ]
            ),
            (4, 5),
        ),
        "dense": (nn.Sequential([dense(), nn.Erf()]), (4,)),
    }[name]
    x = jr.normal(getkey(), (3, *shape))
    head = [nn.GlobalAvgPool(), dense()]
    rolled = nn.Sequential([nn.Repeat(layer, depth), *head])
    unrolled = nn.Sequential([*[layer] * depth, *head])
    ours, theirs = eqt.kernel(rolled, x), eqt.kernel(unrolled, x)
    assert_close(ours.nngp, theirs.nngp)
    assert_close(ours.ntk, theirs.ntk, 1e-7 if is_double() else 1e-3)
    model = rolled.init(shape, key=getkey())
    assert jax.vmap(model)(x).shape == (3, 4)


def test_repeat_compiles_its_layer_once(getkey):
    x = jr.normal(getkey(), (2, 4, 5))

    def size_of_program(depth):
        net = nn.Sequential(
            [nn.Repeat(nn.Sequential([conv(), nn.Relu()]), depth), nn.GlobalAvgPool()]
        )
        return str(jax.make_jaxpr(lambda x: eqt.ntk(net, x))(x)).count(" = ")

    assert size_of_program(1000) == size_of_program(10)


@pytest.mark.precision("float32")
@pytest.mark.parametrize(("layer", "times"), [(nn.Sequential, 2), (nn.Repeat, 1)])
@pytest.mark.parametrize(("nonlinearity", "numbers"), [(nn.Relu, 2), (nn.Tanh, 30)])
def test_of_each_layer_is_kept_what_belongs_to_examples(
    nonlinearity, numbers, layer, times
):
    """Deviations, and terms of an expansion: no layer's are looked up before its turn.

    For pairs of positions they would be as many as blocks have entries.
    """
    block = nn.Sequential([nonlinearity(), conv()])

    def temporary_bytes(depth):
        deep = layer([block] * depth) if layer is nn.Sequential else layer(block, depth)
        net = nn.Sequential([conv(), deep, nn.Relu(), nn.GlobalAvgPool()])
        x = jax.ShapeDtypeStruct((3, 2, 16, 16), jnp.float32)
        kernel = jax.jit(lambda a, b: eqt.ntk(net, a, b))
        return kernel.lower(x, x).compile().memory_analysis().temp_size_in_bytes

    grown = (temporary_bytes(6) - temporary_bytes(3)) / (3 * 4 * 16 * 16)
    # Of both batches, and those of the second once more along each axis. Written out,
    # all of it is also there as it was before that.
    assert 0 < grown <= times * (3 + 4 * 3) * numbers


@pytest.mark.parametrize("readout", [nn.GlobalAvgPool(), nn.Flatten()])
@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_examples(readout):
    net = nn.Sequential([conv(), nn.Relu(), conv(), nn.Relu(), readout])

    def temporary_bytes(n):
        x = jax.ShapeDtypeStruct((n, 2, 8, 8), jnp.float32)
        lowered = jax.jit(lambda a, b: eqt.ntk(net, a, b)).lower(x, x)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    # Below, there is but one tile, which is smaller.
    small, large = temporary_bytes(256), temporary_bytes(1024)
    result = 4 * 1024**2
    assert large < 1.05 * small + result


@pytest.mark.slow
def test_several_inputs_and_outputs(getkey):
    x = jr.normal(getkey(), (3, 4)), jr.normal(getkey(), (3, 2, 5))
    net = nn.Sequential(
        [
            nn.Parallel(
                [
                    dense(),
                    nn.Sequential([nn.Conv(4, (3,)), nn.Relu(), nn.Flatten(), dense()]),
                ]
            ),
            nn.FanInSum(),
            nn.Relu(),
            dense(),
            nn.FanOut(2),
            nn.Parallel([nn.Identity(), dense()]),
        ]
    )
    first, second = eqt.kernel(net, x)
    assert first.ntk.shape == second.ntk.shape == (3, 3)
    assert_close(second.nngp, 1.4**2 * first.nngp + 0.1**2)
    model = net.init(((4,), (2, 5)), key=getkey())
    one, two = jax.vmap(model)(x)
    assert one.shape == two.shape == (3, 4)


@hyp.given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 80), st.booleans())
@hyp.settings(max_examples=30, deadline=None)
def test_tiles_fit_a_block_and_share_the_examples_evenly(n1, n2, side, symmetric):
    n2 = n1 if symmetric else n2
    x = jnp.zeros((n1, 1, side, side), jnp.float32)
    sizes = tile_sizes(nn.GlobalAvgPool(), x, n1, n2, symmetric)
    assert sizes == (1, 1) or np.prod(sizes) * 4 * side**2 <= CPU.block_bytes
    for n, size in zip((n1, n2), sizes, strict=True):
        tiles = -(-n // size)
        assert n <= tiles * size < n + tiles  # no more than rounding is done twice


def test_images_that_are_flattened_first_are_vectors(getkey):
    """Their positions take no part in the kernel, nor in how many fit a block."""
    x = jr.normal(getkey(), (5, 3, 4, 6))
    inside = np.arange(6) < np.array([6, 1, 3, 2, 5])[:, None, None]
    masked = nn.Masked(x, np.broadcast_to(inside, (5, 4, 6)))
    layers = [nn.Linear(1, bias_std=0.3), nn.Relu(), nn.Linear(1)]
    net, of_vectors = nn.Sequential([nn.Flatten(), *layers]), nn.Sequential(layers)
    for images, vectors in [(x, x), (masked, jnp.where(masked.mask[:, None], x, 0))]:
        found = eqt.kernel(net, images)
        expected = eqt.kernel(of_vectors, vectors.reshape(5, -1))
        assert_close(found.ntk, expected.ntk)
        assert_close(found.nngp, expected.nngp)
    many = jnp.zeros((2000, 3, 32, 32), jnp.float32)
    sizes = [
        tile_sizes(of, x, 2000, 2000, symmetric=False)
        for of, x in [(net, many), (of_vectors, many.reshape(2000, -1))]
    ]
    assert sizes[0] == sizes[1]


def test_vectors_joined_end_to_end_meet_in_their_means_after_a_function(getkey):
    """Two layers are independent: `E f(u) f(v) = E f(u) E f(v)` between them."""
    vector = nn.Sequential([nn.Linear(2), nn.Rearrange((), (), (1,))])
    joined = [nn.FanOut(2), nn.Parallel([vector, vector]), nn.FanInConcat(1)]
    x = jr.normal(getkey(), (4, 3))
    found = eqt.kernel(nn.Sequential([*joined, nn.Relu()]), x)
    alone = eqt.kernel(nn.Sequential([nn.Linear(2), nn.Relu()]), x)
    mean = jnp.sqrt(jnp.mean(x**2, 1) / (2 * jnp.pi))
    for i in range(2):
        assert_close(found.nngp[:, :, i, i], alone.nngp)
        assert_close(found.ntk[:, :, i, i], alone.ntk)
        assert_close(found.nngp[:, :, i, 1 - i], jnp.outer(mean, mean))
        assert_close(found.ntk[:, :, i, 1 - i], jnp.zeros((4, 4)))


def _equations(jaxpr, inside=False):
    """The equations of a program that loops run."""
    for eqn in jaxpr.eqns:
        if inside:
            yield eqn
        loops = inside or eqn.primitive.name == "scan"
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _equations(inner, loops)


def test_no_displacement_pads_its_last_axis(getkey):
    """Compilers do not vectorise that, and it is done for every layer."""
    layers = [nn.Conv(1, (3, 3), padding="SAME"), nn.Relu()] * 2
    net = nn.Sequential([*layers, nn.GlobalAvgPool()])
    x = jr.normal(getkey(), (2, 3, 8, 8))
    program = jax.make_jaxpr(lambda x: eqt.ntk(net, x))(x)
    pads = [e for e in _equations(program.jaxpr) if e.primitive.name == "pad"]
    assert pads
    assert all(e.params["padding_config"][-1] == (0, 0, 0) for e in pads)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (7, 4), (8, 3)])
def test_windows_of_one_tap_pick_positions(size, stride):
    """Also where the stride leaves a rest, and so do derivatives."""
    x = jr.normal(jr.key(0), (2, 3, size))

    def total(x, stride):
        conv = nn.Conv(4, 1, stride, weight_std=1.3, bias_std=0.2)
        k = eqt.kernel(nn.Sequential([conv, nn.Relu(), nn.GlobalAvgPool()]), x)
        return jnp.sum(jnp.sin(k.nngp) + jnp.sin(k.ntk))

    value, slope = jax.value_and_grad(total)(x, stride)
    picked, expected = jax.value_and_grad(total)(x[..., ::stride], 1)
    rtol = by_precision(float64=1e-12, float32=1e-4)
    np.testing.assert_allclose(value, picked, rtol=rtol)
    placed = jnp.zeros_like(x).at[..., ::stride].set(expected)
    atol = rtol * float(jnp.abs(expected).max())
    np.testing.assert_allclose(slope, placed, rtol=rtol, atol=atol)


@pytest.mark.parametrize("activation", [nn.Relu(), nn.Abs(), nn.LeakyRelu(0.3)])
@pytest.mark.parametrize("readout", [nn.GlobalAvgPool(), nn.Flatten()])
def test_zero_makes_a_right_angle_with_everything(activation, readout):
    """With itself, too: the slopes there count as the mean of both sides."""
    standard = {"bias_std": 0.0, "parameterization": "standard"}
    linear, conv = nn.Linear(1, **standard), nn.Conv(1, (1,), **standard)
    plain = nn.Sequential([*[linear, activation] * 2, linear])
    images = nn.Sequential([*[conv, activation] * 2, readout, linear])
    expected, x = eqt.ntk(plain, jnp.zeros((2, 3))), jnp.zeros((2, 3, 4))
    within = jax.jit(lambda x: eqt.ntk(images, x))(x)
    for found in eqt.ntk(images, x), within:
        np.testing.assert_allclose(found, expected, rtol=1e-5)
