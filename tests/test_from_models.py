"""Networks that are read from models: which layers, the same function, the kernel."""

import functools
import inspect
import re
from collections.abc import Callable

import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from zoo import ZOO, Called, shuffled


READ = {name: one for name, one in ZOO.items() if not one.refusal}
REFUSED = {name: one for name, one in ZOO.items() if one.refusal}


def names_of(net):
    return " ".join(type(layer).__name__ for layer in net.layers)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", READ)
def test_layers_are_recognised(name):
    one = READ[name]
    net = eqt.from_equinox(one.built(), one.example())
    assert names_of(net) == one.layers


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_kernel_is_refused_at_its_line(name):
    one = REFUSED[name]
    x = one.example()

    def read():
        net = eqt.from_equinox(one.built(), x)
        jax.eval_shape(lambda x: eqt.ntk(net, x), x[None])

    with pytest.raises(nn.LayerError, match=re.escape(one.refusal)) as caught:
        read()
    message = str(caught.value)
    assert re.search(r"zoo\.py:\d+ `", message)
    assert "empirical_ntk" in message
    assert "monte_carlo" in message


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in READ if name != "dropout"])
def test_same_function_of_parameters_of_the_same_size(name):
    one = READ[name]
    model, x = one.make(jr.key(0)), one.example()
    net = eqt.from_equinox(model, x)
    ours, theirs = eqx.filter_jit(lambda net, model, x: (net(x), model(x)))(
        net, model, x
    )
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    drawn = net.init(x.shape, key=jr.key(1))
    # Each is of many numbers, whose size is known as well as there are numbers.
    arrays = lambda net: jax.tree.leaves(eqx.filter(net, eqx.is_array))
    for mine, read in zip(arrays(drawn), arrays(net), strict=True):
        assert mine.shape == read.shape
        sizes = [jnp.sqrt(jnp.mean(a**2)) for a in (mine, read)]
        assert abs(sizes[0] - sizes[1]) <= 5 * read.size**-0.5 * max(sizes)


def linear(out, fan_in, **options):
    """As `equinox.nn.Linear` draws its parameters."""
    return nn.Linear(
        out,
        weight_std=3**-0.5,
        bias_std=(3 * fan_in) ** -0.5,
        parameterization="standard",
        **options,
    )


def hand_written():
    return {
        "gated": nn.Sequential(
            [
                nn.FanOut(2),
                nn.Parallel(
                    [linear(8, 6), nn.Sequential([linear(8, 6), nn.Sigmoid()])]
                ),
                nn.FanInProd(),
                linear(1, 8),
            ]
        ),
        "flattened tokens": nn.Sequential(
            [linear(8, 4), nn.Relu(), nn.Flatten(), linear(1, 32)]
        ),
        "recurrent": nn.Sequential(
            [
                nn.Recurrent(linear(8, 8), linear(8, 3), nn.Tanh()),
                nn.Last(),
                linear(1, 8),
            ]
        ),
        "siren": nn.Sequential(
            [
                *(linear(8, 2), nn.Scale(30.0), nn.Sin()),
                *(linear(8, 8), nn.Scale(30.0), nn.Sin(), linear(1, 8)),
            ]
        ),
        "scanned": nn.Sequential(
            [
                linear(8, 6),
                nn.Repeat(nn.Residual(nn.Sequential([nn.Relu(), linear(8, 8)])), 3),
                linear(1, 8),
            ]
        ),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", hand_written())
def test_kernel_is_that_of_the_network_written_by_hand(name):
    one = ZOO[name]
    net = eqt.from_equinox(one.built(), one.example())
    x = jr.normal(jr.key(2), (3, *one.shape), float)
    hand = x.swapaxes(1, 2) if x.ndim == 3 else x
    ours, theirs = eqt.kernel(net, x), eqt.kernel(hand_written()[name], hand)
    np.testing.assert_allclose(ours.nngp, theirs.nngp, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ours.ntk, theirs.ntk, rtol=1e-4, atol=1e-5)


def perceptron(params, x):
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias


def flax_like(params, x):
    """Channels last, and a normalisation whose gains are multiplied first."""
    x = x @ params["embed"]
    mean = x.mean(-1, keepdims=True)
    variance = (x * x).mean(-1, keepdims=True) - mean**2
    scale = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + 1e-6) * params["scale"]
    x = (x - mean) * scale + params["offset"]
    return jnp.einsum("td,do->to", x, params["head"]).mean(0)


def arrays(*shapes):
    random = np.random.default_rng(0)
    dtype = jnp.zeros(()).dtype
    return [
        jnp.asarray((random.normal(size=s) / np.sqrt(s[0])).astype(dtype))
        for s in shapes
    ]


def test_functions_of_parameters_are_read():
    params = [arrays((3, 300), (300,)), arrays((300, 1), (1,))]
    net = eqt.from_function(perceptron, params, jnp.zeros(3))
    assert names_of(net) == "Linear Relu Linear"
    first, last = net.layers[0], net.layers[2]
    entries = np.asarray(params[0][0])
    assert first.weight_std == pytest.approx(float(np.sqrt(3 * np.mean(entries**2))))
    assert last.weight_std == pytest.approx(1.0, rel=0.2)
    given = eqt.from_function(perceptron, params, jnp.zeros(3), weight_std=1.5)
    assert given.layers[0].weight_std == 1.5


@pytest.mark.slow
def test_a_normalisation_is_recognised_however_it_is_written():
    embed, head = arrays((4, 8), (8, 2))
    params = {"embed": embed, "head": head}
    params |= {"scale": jnp.ones(8), "offset": jnp.zeros(8)}
    with jax.numpy_rank_promotion("allow"):
        net = eqt.from_function(flax_like, params, jnp.zeros((5, 4)))
    assert names_of(net) == "Prepare Linear LayerNorm Linear GlobalAvgPool"
    norm = net.layers[2]
    assert (norm.axes, norm.eps) == ((0,), 1e-6)
    assert norm.use_weight
    assert norm.use_bias


def test_a_graph_network_takes_its_adjacency_as_an_input():
    def graph(params, features, adjacency):
        h = jax.nn.relu(adjacency @ (features @ params[0]))
        return (adjacency @ (h @ params[1])).mean(0)

    params = arrays((3, 8), (8, 1))
    example = jnp.zeros((5, 3)), jnp.eye(5)
    net = eqt.from_function(graph, params, example)
    expected = "Prepare Linear Prepare Mix Relu Linear Prepare Mix GlobalAvgPool"
    assert names_of(net).count("Mix") == expected.count("Mix")
    assert names_of(net).count("Linear") == 2


def test_kept_values_say_where_they_come_from():
    one = ZOO["scanned"]
    net = eqt.from_equinox(one.built(), one.example())
    printed = repr(net)
    assert len(printed.splitlines()) == 2 + len(net.layers)
    assert re.search(r"h2 += Linear\(.*\) of h1 +# zoo\.py:\d+", printed)


def test_biases_apart_where_the_sum_is_not_all_that_is_read():
    def call(parts, x):
        h = parts[0].weight @ x
        return parts[1](jax.nn.relu(h + parts[0].bias)) + parts[2](h)

    model = Called(
        [eqx.nn.Linear(*size, key=jr.key(0)) for size in ((3, 4), (4, 1), (4, 1))], call
    )
    net = eqt.from_equinox(model, jnp.zeros(3))
    assert names_of(net).startswith("Linear Learned FanInSum Relu")


WIDE = {
    name: one
    for name, one in READ.items()
    if "w" in inspect.signature(one.make).parameters
}


@pytest.mark.slow
@pytest.mark.precision("float32")
@pytest.mark.parametrize("name", WIDE)
def test_kernel_is_the_mean_over_draws_of_the_model_itself(name):
    one, w = WIDE[name], 96
    x = one.batch(2)
    model = one.make(jr.key(0), w)
    limit = eqt.kernel(eqt.from_equinox(model, x[0]), x)
    # Channels are along the axis that is none of positions.
    out, rank = jax.eval_shape(model, x[0]).shape, limit.nngp.ndim // 2 - 1
    positions = limit.nngp.shape[2 : 2 + rank]
    axes = [i for i in range(len(out)) if out[:i] + out[i + 1 :] == positions]
    drawn = eqt.monte_carlo(
        lambda key: one.make(key, w), x, None, jr.key(3), 256, trace_axes=axes[:1]
    )
    for kind in ("nngp", "ntk"):
        expected, mean, error = (
            np.asarray(getattr(k, kind), float)
            for k in (limit, drawn.mean, drawn.standard_error)
        )
        # Networks of finite width have a bias of order 1 / width.
        allowed = 5 * error + 8 / w * np.abs(expected).max()
        assert (np.abs(mean - expected) < allowed).all(), (kind, mean, expected)


SCORES = {
    "plain": lambda q, k: jax.nn.softmax(q @ k.T / 8),
    "queries divided": lambda q, k: jax.nn.softmax((q / 8) @ k.T),
    "both divided": lambda q, k: jax.nn.softmax((q / 8**0.5) @ (k / 8**0.5).T),
    "by hand": lambda q, k: jnp.exp(q @ k.T / 8) / jnp.exp(q @ k.T / 8).sum(1)[:, None],
    "turned": lambda q, k: jax.nn.softmax((k @ q.T).T / 8),
    "local": lambda q, k: jax.nn.softmax(jnp.where(NEAR, q @ k.T / 8, -jnp.inf)),
    "distances": lambda q, k: jax.nn.softmax(q @ k.T / 8 - DISTANCES),
}
DISTANCES = np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0)))
NEAR = (DISTANCES < 3) & np.tri(5, dtype=bool)
OTHER_SCORES = {
    "by the root": lambda q, k: jax.nn.softmax(q @ k.T / 8**0.5),
    "by no number": lambda q, k: jax.nn.softmax(q @ k.T),
    "no softmax over": lambda q, k: jax.nn.relu(q @ k.T / 8),
    "neither constant nor values": lambda q, k: jax.nn.softmax(q @ k.T * k[:, :1]),
}


def by_scores(weigh):
    def model(params, x):
        x = x @ params["embed"]
        q, k, v = (x @ w for w in params["qkv"])
        return (weigh(q, k).astype(v.dtype) @ v @ params["head"]).mean(0)

    embed, q, k, v, head = arrays((3, 8), (8, 8), (8, 8), (8, 8), (8, 1))
    return model, {"embed": embed, "qkv": (q, k, v), "head": head}


@pytest.mark.precision("float64")
@pytest.mark.quick(3)
@pytest.mark.parametrize("name", SCORES)
def test_attention_is_recognised_however_it_is_written(name):
    model, params = by_scores(SCORES[name])
    x = jr.normal(jr.key(1), (5, 3))
    net = eqt.from_function(model, params, x)
    assert "Attend" in names_of(net)
    (layer,) = (one for one in net.layers if isinstance(one, nn.Attend))
    assert layer.reach == (((2, 0),) if name == "local" else None)
    assert (layer.bias is not None) == (name == "distances")
    np.testing.assert_allclose(net(x), model(params, x), rtol=1e-6, atol=1e-9)


@pytest.mark.precision("float64")
@pytest.mark.parametrize("said", OTHER_SCORES)
def test_other_attention_is_refused(said):
    model, params = by_scores(OTHER_SCORES[said])
    with pytest.raises(nn.LayerError, match=said):
        eqt.from_function(model, params, jr.normal(jr.key(1), (5, 3)))


def test_functions_of_joined_channels_are_of_each_part():
    def model(params, x):
        joined = jnp.concatenate([x @ params[0], x @ params[1]])
        return jax.nn.relu(joined) @ params[2]

    net = eqt.from_function(model, arrays((3, 4), (3, 5), (9, 1)), jnp.ones(3))
    assert names_of(net) == "Linear Relu Linear Relu FanInConcat Linear"


CLOSURES = {
    "of a module": lambda mlp: lambda x: mlp(x),
    "compiled": lambda mlp: jax.jit(lambda x: mlp(x)),
    "mapped": lambda mlp: jax.vmap(lambda x: mlp(x)),
    "mapped itself": jax.vmap,
    "partial": lambda mlp: functools.partial(lambda one, x: one(x), mlp),
}


@pytest.mark.parametrize("name", CLOSURES)
def test_arrays_that_are_closed_over_are_no_parameters(name):
    """Or the kernel would be that of a function which is known."""
    mlp = eqx.nn.MLP(3, 1, 4, 1, key=jr.key(0))
    x = jnp.zeros((2, 3) if name.startswith("mapped") else 3)
    with pytest.raises(nn.LayerError, match="closes over"):
        eqt.from_equinox(CLOSURES[name](mlp), x)


def surrogate(slope, *more):
    """The hyperbolic tangent, with a slope of its own, and arguments without effect."""

    @jax.custom_jvp
    def spike(x, *more):
        return jnp.tanh(x)

    spike.defjvp(lambda primals, tangents: (spike(*primals), slope * tangents[0]))
    return lambda x: spike(x, *more)


SURROGATES = {
    "alone": surrogate,
    "in a jitted function": lambda slope: jax.jit(surrogate(slope)),
    "with a number": lambda slope: surrogate(slope, 2.0),
    "with an integer": lambda slope: surrogate(slope, 3),
    "computed again": lambda slope: jax.checkpoint(surrogate(slope)),
}


@pytest.mark.parametrize("make", SURROGATES.values(), ids=SURROGATES)
def test_functions_are_told_apart_by_their_derivatives(make):
    """Their programs are one: what was read first must not stand for the other."""
    parts = [eqx.nn.Linear(*size, key=jr.key(0)) for size in ((3, 8), (8, 1))]
    x = jnp.ones(3)
    for function in (make(1.0), make(3.0)):
        call = lambda parts, x, fn=function: parts[1](fn(parts[0](x)))
        *_, layer, _ = eqt.from_equinox(Called(parts, call), x).layers
        found, expected = (jax.jvp(fn, (x,), (x,)) for fn in (layer, function))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.precision("float32")
@pytest.mark.parametrize("kinked", [jax.nn.hard_swish, lambda x: jnp.clip(x, -0.5, 1)])
def test_pieces_are_found_of_functions_traced_in_single_precision(kinked):
    """Whose own values are rounded too much to tell polynomials by."""
    parts = [eqx.nn.Linear(*size, key=jr.key(0)) for size in ((3, 8), (8, 1))]
    call = lambda parts, x: parts[1](kinked(parts[0](x)))
    *_, layer, _ = eqt.from_equinox(Called(parts, call), jnp.ones(3)).layers
    (value, slope), expected = (
        one.dual(0.3, 1.0, 2.0) for one in (layer, nn.Elementwise(kinked))
    )
    np.testing.assert_allclose([value, slope], expected, rtol=1e-6)


def called(function):
    """A function of two layers of as many channels as they read, and the input."""
    parts = [eqx.nn.Linear(4, 4, key=key) for key in jr.split(jr.key(0))]
    return eqt.from_equinox(Called(parts, function), jnp.ones(4))


def test_what_is_computed_twice_is_one_layer():
    net = called(lambda p, x: jax.nn.silu(p[0](x)) * p[1](p[0](x)))
    assert names_of(net) == "Linear Silu Linear FanInProd"


def test_arrays_without_entries_are_left_out():
    net = called(lambda p, x: jnp.concatenate([p[0](x)[:0], p[1](x)]))
    assert names_of(net) == "Linear"


def test_stacked_states_are_flattened_side_by_side():
    """They may correlate: weights of their own keep them apart."""

    def stacked(parts, x):
        first, stack, last = parts
        step = lambda x, one: (jax.nn.relu(one @ x),) * 2
        states = jax.lax.scan(step, first(x), stack)[1]
        return last @ states.T.reshape(-1)

    keys = jr.split(jr.key(0), 3)
    stack, last = jr.normal(keys[1], (2, 4, 4)), jr.normal(keys[2], (1, 8))
    model = Called((eqx.nn.Linear(3, 4, key=keys[0]), stack, last), stacked)
    x = jr.normal(jr.key(1), (2, 3))
    net = eqt.from_equinox(model, x[0], weight_std=1.0)
    np.testing.assert_allclose(net(x[0]), model(x[0]), rtol=1e-5)
    first, one, other, end = (
        nn.Linear(n, weight_std=1.0, bias_std=b, parameterization="standard")
        for n, b in ((4, 1 / 3), (4, None), (4, None), (1, None))
    )
    deeper = nn.Sequential([other, nn.Relu()])
    joined = [nn.FanOut(2), nn.Parallel([nn.Identity(), deeper]), nn.FanInConcat(0)]
    hand = nn.Sequential([first, one, nn.Relu(), *joined, end])
    np.testing.assert_allclose(eqt.nngp(net, x), eqt.nngp(hand, x), rtol=1e-5)
    np.testing.assert_allclose(eqt.ntk(net, x), eqt.ntk(hand, x), rtol=1e-5)


def test_positions_of_one_part_are_those_of_the_part():
    """Of stacked states, which may correlate, the last is a layer's output."""
    stack = lambda p, x: jnp.stack([h := p[0](x), jnp.tanh(h)])
    last = called(lambda p, x: p[1](stack(p, x)[-1]))
    assert names_of(last) == "Linear Tanh Rearrange Linear Index"
    x = jr.normal(jr.key(0), (3, 4))
    eqt.kernel(last, x)


NO_LAYERS = {
    "complex": lambda p, x: jnp.abs(p[0](x) + 1j * p[1](x)),
    "belongs to the loss": lambda p, x: jax.nn.softmax(p[0](x)),
    "more than once there": lambda p, x: p[0](jnp.tanh(p[0](x))),
}


@pytest.mark.parametrize("said", NO_LAYERS)
def test_what_no_layer_does_is_refused(said):
    with (
        pytest.raises(nn.LayerError, match=said),
        jax.numpy_dtype_promotion("standard"),
    ):
        called(NO_LAYERS[said])


def test_examples_are_arrays():
    with pytest.raises(TypeError, match=r"`example` is a dict of 1, .* `eqx\.Partial"):
        eqt.from_equinox(eqx.nn.Identity(), {"a": jnp.ones(3)})


def test_networks_tell_the_shape_that_they_were_read_from():
    """A batch may look like an example with positions."""
    layers = [arrays((3, 8), (8,)), arrays((8, 1), (1,))]
    x = jnp.ones((5, 3))
    with jax.numpy_rank_promotion("allow"):
        net = eqt.from_function(perceptron, layers, x)
    for call in (lambda: eqt.ntk(net, x), lambda: net(x[0])):
        with pytest.raises(ValueError, match=r"from an example of shape \(5, 3\), but"):
            call()
    assert eqt.ntk(net, x[None]).shape == (1, 1, 5, 5)


def test_statistics_of_other_examples_are_named():
    norm = eqx.nn.BatchNorm(3, "batch", mode="batch")
    with pytest.raises(ValueError, match="Its `BatchNorm` keeps statistics of other"):
        eqt.from_equinox(norm, jnp.ones((3, 4)))


def test_a_sequence_keeps_no_statistics():
    """Whatever else is wrong with a model in one is told."""
    broken = eqx.nn.Lambda(lambda x: x.no_such_thing)
    model = eqx.nn.Sequential([eqx.nn.Linear(3, 4, key=jr.key(0)), broken])
    with pytest.raises(ValueError, match="no_such_thing") as caught:
        eqt.from_equinox(model, jnp.ones(3))
    assert "statistics" not in str(caught.value)


def test_edges_that_are_an_input():
    """Picked and summed by numbers of the input, as by the matrices of these."""

    def call(parts, x, senders, receivers, there):
        x = jax.vmap(parts[0])(x)
        x = jnp.zeros_like(x).at[receivers].add(x[senders])
        x = jax.nn.relu(jnp.where(there[:, None] > 0, x, 0))
        return parts[1](x.sum(0) / there.sum())

    def written_out(parts, x, chosen, put, there):
        x = put @ (chosen @ jax.vmap(parts[0])(x))
        return parts[1](jax.nn.relu(jnp.diag(there) @ x).sum(0) / there.sum())

    class Graph(eqx.Module):
        parts: list
        fn: Callable = eqx.field(static=True)

        def __call__(self, *x):
            return self.fn(self.parts, *x)

    dtype = jnp.zeros(()).dtype
    parts = [eqx.nn.Linear(*size, key=jr.key(0)) for size in ((3, 8), (8, 1))]
    x = jr.normal(jr.key(1), (3, 4, 3))
    senders, receivers = jr.randint(jr.key(2), (2, 3, 5), 0, 4)
    there = jnp.asarray([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 1, 1]], dtype)
    hot = lambda one: jax.nn.one_hot(one, 4, dtype=dtype)
    edges = x, senders, receivers, there
    matrices = x, hot(senders), hot(receivers).swapaxes(1, 2), there
    given = [
        (eqt.from_equinox(Graph(parts, fn), tuple(one[0] for one in batch)), batch)
        for fn, batch in ((call, edges), (written_out, matrices))
    ]
    outputs = [jax.vmap(lambda *one, net=net: net(one))(*batch) for net, batch in given]
    np.testing.assert_allclose(*outputs, rtol=1e-5)
    kernels = [eqt.kernel(net, batch) for net, batch in given]
    np.testing.assert_allclose(kernels[0].nngp, kernels[1].nngp, rtol=1e-5)
    np.testing.assert_allclose(kernels[0].ntk, kernels[1].ntk, rtol=1e-5)


TWO_FUNCTIONS = {
    "numbers": lambda c: lambda h: jnp.tanh(h) + c * h,
    "powers": lambda c: lambda h: jnp.tanh(h) ** int(10 * c),
    "bounds": lambda c: lambda h: jnp.clip(h, -1, 10 * c),
    "derivatives": lambda c: scaled_slope(jnp.asarray(c)),
}


def scaled_slope(slope):
    @jax.custom_jvp
    def fn(x):
        return jnp.tanh(x)

    fn.defjvp(lambda args, tangents: (fn(*args), slope.astype(float) * tangents[0]))
    return fn


@pytest.mark.precision("float32")
@pytest.mark.parametrize("name", TWO_FUNCTIONS)
def test_functions_of_one_value_that_differ_in_numbers_are_two(name):
    one, other = (TWO_FUNCTIONS[name](c) for c in (0.1, 0.2))

    def model(params, x):
        h = x @ params[0]
        return one(h) @ params[1] + other(h) @ params[2]

    params, x = arrays((3, 8), (8, 1), (8, 1)), jnp.ones(3)
    net = eqt.from_function(model, params, x)
    np.testing.assert_allclose(net(x), model(params, x), rtol=1e-5)
    ours = jax.grad(lambda x: net(x)[0])(x)
    theirs = jax.grad(lambda x: model(params, x)[0])(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_one_function_of_stacked_layers_is_applied_to_all():
    def model(params, x):
        h = jnp.stack([jax.nn.relu(x @ weight) for weight in params[:2]])
        return (h @ params[2]).mean(0)

    params, x = arrays((3, 8), (3, 8), (8, 1)), jnp.ones((2, 3))
    net = eqt.from_function(model, params, x[0])
    assert names_of(net).split().count("Relu") == 1
    one, other = (
        eqt.nngp(eqt.from_function(perceptron, [(w, jnp.zeros(8)), last], x[0]), x)
        for w, last in zip(params[:2], [(params[2], jnp.zeros(1))] * 2, strict=True)
    )
    # One readout of two independent layers: means of both, and of their covariances.
    means = [jnp.sqrt(jnp.diag(k) / np.pi) for k in (one, other)]
    across = jnp.outer(means[0], means[1])
    expected = (one + other + across + across.T) / 4
    np.testing.assert_allclose(eqt.nngp(net, x), expected, rtol=1e-4)


@pytest.mark.parametrize("axis", [0, -1])
def test_maxima_of_pairs_of_channels(axis):
    def model(params, x):
        shape = (2, 8) if axis == 0 else (8, 2)
        return (x @ params[0]).reshape(shape).max(axis) @ params[1]

    params, x = arrays((3, 16), (8, 1)), jnp.ones(3)
    net = eqt.from_function(model, params, x)
    assert names_of(net) == "Linear Linear FanInMax Linear"
    np.testing.assert_allclose(net(x), model(params, x), rtol=1e-5)


def turned(x, r):
    """Channels as positions, in the order of TensorFlow: the channels come last."""
    c, h, w = x.shape
    x = x.reshape(r, r, c // r**2, h, w).transpose(2, 3, 0, 4, 1)
    return x.reshape(c // r**2, h * r, w * r)


@pytest.mark.quick(2)
@hyp.given(
    st.sampled_from([shuffled, turned]),
    st.integers(1, 2),
    st.integers(2, 3),
    st.integers(2, 3),
)
@hyp.settings(max_examples=3)
def test_channels_that_become_positions_are_independent(shuffle, r, height, width):
    x = jr.normal(jr.key(0), (2, 3, height, width), float)
    conv = eqx.nn.Conv2d(3, 5 * r**2, 1, key=jr.key(1))
    net = eqt.from_equinox(Called(conv, lambda conv, x: shuffle(conv(x), r)), x[0])
    np.testing.assert_allclose(net(x[0]), shuffle(conv(x[0]), r), rtol=1e-5, atol=1e-6)
    plain = eqt.kernel(eqt.from_equinox(conv, x[0]), x)
    same = np.eye(r)
    for kind in ("nngp", "ntk"):
        expected = np.einsum(
            "abpqPQ,ik,jl->abpiqjPkQl", getattr(plain, kind), same, same
        )
        found = getattr(eqt.kernel(net, x), kind)
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5)


def test_sums_of_groups_of_channels():
    net = called(lambda p, x: p[0](x).reshape(2, 2).sum(0))
    x = jr.normal(jr.key(0), (2, 4))
    np.testing.assert_allclose(
        eqt.nngp(net, x), 2 * eqt.nngp(called(lambda p, x: p[0](x)), x), rtol=1e-5
    )


def test_many_groups_of_few_channels_are_not_summed():
    weights, x = arrays((3, 16)), jnp.ones(3)
    with pytest.raises(nn.LayerError, match="statistics over the channels"):
        eqt.from_function(lambda p, x: (x @ p[0]).reshape(8, 2).sum(0), weights, x)
