"""Kernels of finite networks over meshes: the values are those of the plain call."""

import contextlib
import math
import re

import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import eqtangents as eqt
from eqtangents import _sampling, nn
from eqtangents.empirical import _over_mesh
from mesh_cases import AXES, MESHES, assert_same, line, over_meshes, over_shapes, square
from precision import DTYPE, by_precision


def several(params, example):
    """Several outputs of an example of several arrays."""
    hidden = jnp.tanh(params["in"] @ example["values"] + example["more"][0])
    one = params["out"] @ hidden
    return {"one": one, "two": (one[:, None] * hidden[None, :2], jnp.sum(hidden))}


def convolved(params, example):
    net = nn.Sequential([nn.Conv(3, 3), nn.Relu(), nn.Conv(2, 2)])
    x = example["values"][None] * example["more"][0]
    return net.init((1, 5), key=jr.key(3))(x) * params["in"][0, 0]


NETWORKS = {"several": several, "convolved": convolved}
WAYS = ["auto", "structured", "jacobian", "vector_products"]


def parameters():
    keys = jr.split(jr.key(0))
    shapes = {"in": (4, 5), "out": (3, 4)}
    normal = lambda key, shape: jr.normal(key, shape, DTYPE)
    return dict(zip(shapes, map(normal, keys, shapes.values()), strict=True))


def batch(n, seed=1):
    keys = jr.split(jr.key(seed))
    return {
        "values": jr.normal(keys[0], (n, 5), DTYPE),
        "more": (jr.normal(keys[1], (n,), DTYPE),),
    }


@st.composite
def problems(draw):
    """A network, numbers of examples, of which the second may be missing, options."""
    name = draw(st.sampled_from(sorted(NETWORKS)))
    axes = [{}, {"trace_axes": ()}]
    if name == "convolved":
        axes += [{"trace_axes": (), "diagonal_axes": (1,)}, {"diagonal_axes": (0,)}]
    options = {
        "implementation": draw(st.sampled_from(WAYS)),
        "chunk_size": draw(st.sampled_from([None, 3])),
        **draw(st.sampled_from(axes)),
    }
    sizes = draw(st.integers(1, 9)), draw(st.one_of(st.none(), st.integers(1, 6)))
    kind, shape = draw(st.sampled_from(sorted(AXES))), draw(st.sampled_from([*MESHES]))
    return NETWORKS[name], sizes, options, MESHES[shape](kind)


def batches(sizes):
    n1, n2 = sizes
    return batch(n1), None if n2 is None else batch(n2, 2)


@pytest.mark.slow
@hyp.given(problem=problems())
@hyp.settings(max_examples=8)
def test_values_over_drawn_meshes(problem):
    network, sizes, options, mesh = problem
    x1, x2 = batches(sizes)
    kernel = lambda **over: eqt.empirical_kernel(
        network, x1, x2, parameters(), **options, **over
    )
    assert_same(kernel(mesh=mesh), kernel())


@pytest.mark.slow
@hyp.given(problem=problems())
@hyp.settings(max_examples=8)
def test_gradients_over_drawn_meshes(problem):
    network, sizes, options, mesh = problem
    kernel = lambda batches, params, **over: jax.tree.leaves(
        eqt.empirical_kernel(network, *batches, params, **options, **over)
    )
    # A sine of large values would enlarge their rounding.
    sizes_of = [np.abs(leaf).max() for leaf in kernel(batches(sizes), parameters())]

    def slopes(**over):
        def loss(params, batches):
            leaves = zip(kernel(batches, params, **over), sizes_of, strict=True)
            return sum(jnp.sum(jnp.sin(leaf / size)) for leaf, size in leaves)

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(parameters(), batches(sizes))

    found, expected = slopes(mesh=mesh), slopes()
    # Derivatives are sums of terms that cancel: they are as exact as the largest is.
    most = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    atol = most * by_precision(float64=1e-12, float32=1e-5)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol)
    jax.tree.map(same, found, expected)


@pytest.mark.slow
@over_shapes
@over_meshes
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [(7, None), (7, 5)])
def test_values_of_every_way(sizes, way, kind, mesh):
    params, pair = parameters(), batches(sizes)
    options = {"implementation": way, "trace_axes": (), "diagonal_axes": (0,)}
    kernel = lambda **over: eqt.empirical_ntk(
        convolved, *pair, params, **options, **over
    )
    found = kernel(mesh=mesh(kind))
    assert_same(found, kernel())
    if sizes[1] is None:
        # (n1, n2, diagonal, outputs1, outputs2), to the last bit
        np.testing.assert_array_equal(found, np.transpose(found, (1, 0, 2, 4, 3)))


@pytest.mark.slow
@over_meshes
def test_what_a_model_and_its_options_may_be(kind):
    """Learning rates, contributions of leaves, states, keys, complex outputs."""
    mesh, x = line(kind), jr.normal(jr.key(0), (6, 5), DTYPE)
    net = nn.Sequential([nn.Linear(8), nn.Relu(), nn.Linear(2)])
    model = net.init((5,), key=jr.key(2))
    assert_same(
        eqt.empirical_ntk_by_leaf(model, x, mesh=mesh),
        eqt.empirical_ntk_by_leaf(model, x),
    )
    rates = jax.tree.map(lambda leaf: 0.5, eqx.filter(model, eqx.is_array))
    for options in ({"trainable": rates}, {"trainable": lambda leaf: leaf.ndim == 2}):
        kernel = lambda options=options, **over: eqt.empirical_ntk(
            model, x, x[:3], **options, **over
        )
        assert_same(kernel(mesh=mesh), kernel())
    turned = lambda params, x: jax.lax.complex(jnp.cos(params @ x), x[:2])
    weights = jr.normal(jr.key(1), (2, 5), DTYPE)
    products = lambda **over: eqt.empirical_nngp(
        turned, x, None, weights, trace_axes=(), **over
    )
    assert_same(products(mesh=mesh), products())
    keyed = lambda params, example: params @ example[0] * jr.normal(example[1], (2,))
    pairs = (x, jr.split(jr.key(3), 6))
    drawn = lambda **over: eqt.empirical_kernel(keyed, pairs, None, weights, **over)
    assert_same(drawn(mesh=mesh), drawn())


class Normalised(eqx.Module):
    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear

    def __init__(self, key):
        self.norm = eqx.nn.BatchNorm(5, "batch", mode="batch")
        self.linear = eqx.nn.Linear(5, 3, key=key)

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return self.linear(x), state


@pytest.mark.slow
@over_meshes
def test_a_model_with_state(kind):
    model, state = eqx.nn.make_with_state(Normalised)(jr.key(0))
    model, x = eqx.nn.inference_mode(model), jr.normal(jr.key(1), (6, 5))
    kernel = lambda **over: eqt.empirical_kernel(model, x, x[:5], state=state, **over)
    assert_same(kernel(mesh=line(kind)), kernel())


@pytest.mark.slow
@over_meshes
def test_batches_may_lie_anywhere(kind):
    params, x, mesh = parameters(), batch(8), line(kind)
    kernel = lambda x, **over: eqt.empirical_kernel(convolved, x, None, params, **over)
    expected, plain = kernel(x), eqt.NTKOperator(convolved, x, None, params)
    vector = vector_for(plain)
    for spec in (PartitionSpec(), PartitionSpec("d")):
        put = jax.device_put(x, NamedSharding(mesh, spec))
        assert_same(kernel(put, mesh=mesh), expected)
        over = eqt.NTKOperator(convolved, put, None, params, mesh=mesh)
        assert_same(over.mv(vector), plain.mv(vector))
    assert_same(kernel(jax.tree.map(np.asarray, x), mesh=mesh), expected)
    assert_same(jax.jit(lambda x: kernel(x, mesh=mesh))(x), expected)
    assert_same(kernel(x, mesh=lambda: mesh), expected)


@pytest.mark.slow
@pytest.mark.parametrize("in_force", [False, True], ids=["", "in force"])
@pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
def test_batches_bring_the_mesh_that_they_are_split_over(traced, in_force):
    params, x, mesh = parameters(), batch(8), line("explicit")
    put = jax.device_put(x, NamedSharding(mesh, PartitionSpec("d")))
    vector = vector_for(eqt.NTKOperator(several, x, None, params))
    few = nn.Sequential([nn.Linear(3), nn.Relu(), nn.Linear(1)])

    def kernels(x):
        operator = eqt.NTKOperator(several, x, None, params)
        drawn = eqt.monte_carlo(few, x["values"], None, jr.key(0), 2)
        products = operator.mv(vector), lx.linearise(operator).mv(vector)
        kernel = eqt.empirical_kernel(several, x, None, params)
        return kernel, *products, lx.diagonal(operator), drawn.mean

    expected = kernels(x)
    with jax.set_mesh(mesh) if in_force else contextlib.nullcontext():
        found = (jax.jit(kernels) if traced else kernels)(put)
    assert_same(found, expected)
    assert jax.typeof(found[0]["one"].ntk).sharding.spec == PartitionSpec("d", None)


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 9])
def test_kernels_are_split_where_they_can_be(n):
    params, x1, x2 = parameters(), batch(n), batch(6, 2)
    split = PartitionSpec("d" if n == 8 else None)
    grid = PartitionSpec("a" if n == 8 else None, "b")
    for kernel in (eqt.empirical_ntk, eqt.empirical_nngp):
        for mesh, other, spec in ((line(), None, split), (square(), x2, grid)):
            found = kernel(convolved, x1, other, params, mesh=mesh)
            over = NamedSharding(mesh, spec)
            assert found.sharding.is_equivalent_to(over, found.ndim)


@pytest.mark.quick(1)
@pytest.mark.parametrize("n1", [0, 3])
def test_no_examples_over_a_mesh(n1):
    params, x1, x2 = parameters(), batch(n1), batch(0)
    found = eqt.empirical_kernel(convolved, x1, x2, params, mesh=line())
    assert found.ntk.shape == found.nngp.shape == (n1, 0, 2, 2)


def compiled_over(mesh, kernel, *sizes):
    """The program for batches that are split over a mesh, if there is one."""
    x = [jax.ShapeDtypeStruct((n, 50), DTYPE) for n in sizes]
    if mesh is not None:
        rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        x = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=rows) for a in x]
    return jax.jit(kernel).lower(*x).compile()


def flops(program):
    """Operations of a device: XLA counts those of the body of a loop once.

    All loops here are one inside of the other, if there are several.
    """
    trips = re.findall(r'known_trip_count":\{"n":"(\d+)"', program.as_text())
    return program.cost_analysis()["flops"] * math.prod(map(int, trips))


def moved(program):
    """The numbers of each array that devices hand to one another, by the operation."""
    found = re.findall(
        r"= (.*?) (all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\(",
        program.as_text(),
    )
    shapes = [(re.findall(r"\w+\[([\d,]*)\]", shape), name) for shape, name in found]
    size = lambda dims: math.prod(int(d) for d in dims.split(",") if d)
    return [(sum(map(size, shape)), name) for shape, name in shapes]


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.parametrize("way", ["structured", "jacobian"])
@pytest.mark.quick(1)
def test_rows_of_the_jacobian_are_divided(way, shape):
    """Devices have their share of the work, and get inputs alone from one another."""
    model = nn.Sequential([nn.Linear(64), nn.Relu(), nn.Linear(3)])
    model = model.init((50,), key=jr.key(0))

    def kernel(x1, x2, mesh=None):
        options = {"trace_axes": (), "implementation": way}
        return eqt.empirical_ntk(model, x1, x2, mesh=mesh, **options)

    mesh, n = MESHES[shape](), 128
    over = compiled_over(mesh, lambda a, b: kernel(a, b, mesh), n, n)
    plain = compiled_over(None, kernel, n, n)
    assert flops(over) < 1.3 * flops(plain) / 4
    for size, name in moved(over):
        assert name in ("all-gather", "collective-permute")
        assert size <= n * 50
    # Of two blocks that mirror each other one is computed: of 4 in a row 3 at most.
    alone = compiled_over(mesh, lambda a: kernel(a, None, mesh), n)
    both = compiled_over(line(), lambda a, b: kernel(a, b, line()), n, n)
    assert flops(alone) < 0.9 * flops(both)


@pytest.mark.slow
@over_meshes
def test_explanations_are_of_one_device(kind):
    params, x1, x2 = parameters(), batch(16), batch(8, 2)
    explained = lambda *batches, **over: eqt.explain_empirical_ntk(
        convolved, *batches, params, trace_axes=(), **over
    )
    part = batch(4)
    for over, tile, tiles in (
        (explained(x1, x2, mesh=line(kind)), explained(part, x2), 1),
        (explained(x1, x2, mesh=square(kind)), explained(batch(8), part), 1),
        # Of four blocks in a row of blocks those on the diagonal, and two after it.
        (explained(x1, None, mesh=line(kind)), explained(part, part), 3),
    ):
        assert over.choice.name == tile.choice.name
        assert over.choice.cost.flops == tiles * tile.choice.cost.flops
        assert over.choice.cost.peak == tile.choice.cost.peak
    rows = NamedSharding(line("explicit"), PartitionSpec("d"))
    split = explained(jax.device_put(x1, rows), x2)
    assert str(split) == str(explained(x1, x2, mesh=line()))


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.quick(1)
def test_outputs_are_computed_once(shape):
    """Devices have their share of the work, and get outputs alone from one another."""
    model = nn.Sequential([nn.Linear(64), nn.Relu(), nn.Linear(3)])
    model = model.init((50,), key=jr.key(0))
    kernel = lambda a, b, mesh=None: eqt.empirical_nngp(
        model, a, b, trace_axes=(), mesh=mesh
    )
    mesh, n = MESHES[shape](), 64
    over = compiled_over(mesh, lambda a, b: kernel(a, b, mesh), n, n)
    assert flops(over) < 1.1 * flops(compiled_over(None, kernel, n, n)) / 4
    assert max(moved(over))[0] <= n * 3


def programs_of(module, name, monkeypatch, function):
    """The compiled programs of a jitted function of a module that a call runs."""
    run, found = getattr(module, name), []

    def recorded(*args):
        found.append(run.lower(*args).compile().compiled)
        return run(*args)

    with monkeypatch.context() as patched:
        patched.setattr(module, name, recorded)
        function()
    return found


@pytest.mark.parametrize("shape", MESHES)
@pytest.mark.slow
def test_draws_are_divided(shape, monkeypatch):
    """Devices draw their share of the networks, and hand on means of kernels alone."""
    net = nn.Sequential([nn.Linear(64), nn.Relu(), nn.Linear(3)])
    x, mesh, n = jr.normal(jr.key(0), (16, 50), DTYPE), MESHES[shape](), 8

    def drawn(mesh, batch_size):
        options = {"batch_size": batch_size, "mesh": mesh, "kernels": "ntk"}
        return lambda: eqt.monte_carlo(net, x, None, jr.key(1), n, **options)

    draws, means = (_over_mesh, "_by_example"), (_sampling, "_merged")
    (plain,) = programs_of(*draws, monkeypatch, drawn(None, n))
    (over,) = programs_of(*draws, monkeypatch, drawn(mesh, n // 4))
    assert flops(over) < 1.1 * flops(plain) / 4
    assert not moved(over)
    (merged,) = programs_of(*means, monkeypatch, drawn(mesh, n // 4))
    assert {name for _, name in moved(merged)} == {"all-reduce"}
    assert sum(size for size, _ in moved(merged)) <= 2 * 16 * 16


@pytest.mark.usefixtures("without_jaxtyping")
def test_what_is_no_mesh_is_refused():
    x, params = batch(2), parameters()
    for kernel in (eqt.empirical_ntk, eqt.empirical_nngp, eqt.empirical_kernel):
        with pytest.raises(TypeError, match="`mesh` is 4, but must be a mesh"):
            kernel(several, x, None, params, mesh=4)


def vector_for(operator):
    numbers = lambda s: jnp.sin(jnp.arange(s.size, dtype=s.dtype)).reshape(s.shape)
    return jax.tree.map(numbers, operator.in_structure())


@pytest.mark.slow
@over_shapes
@over_meshes
@pytest.mark.parametrize("sizes", [(7, 5), (8, None)])
def test_products_over_meshes(sizes, kind, mesh):
    over, plain = (
        eqt.NTKOperator(several, *batches(sizes), parameters(), mesh=where)
        for where in (mesh(kind), None)
    )
    vector = vector_for(plain)
    assert over.in_structure() == plain.in_structure()
    assert_same(over.mv(vector), plain.mv(vector))
    assert_same(over.T.T.mv(vector), plain.mv(vector))
    assert_same(over.as_matrix(), plain.as_matrix())
    assert_same(lx.diagonal(over), lx.diagonal(plain))
    assert_same(lx.linearise(over).mv(vector), plain.mv(vector))


@pytest.mark.slow
@over_meshes
@pytest.mark.parametrize("n", [7, 8])
def test_solutions_and_gradients_over_meshes(n, kind):
    def solved(params, x, mesh):
        operator = eqt.NTKOperator(convolved, x, None, params, mesh=mesh)
        regular = operator + lx.IdentityLinearOperator(operator.in_structure())
        regular = lx.TaggedLinearOperator(regular, lx.positive_semidefinite_tag)
        tight = lx.CG(rtol=1e-13, atol=1e-13, max_steps=200)
        found = lx.linear_solve(regular, vector_for(operator), tight, throw=False)
        return jnp.sum(jnp.sin(found.value))

    of = jax.jit(jax.value_and_grad(solved, argnums=(0, 1)), static_argnums=2)
    found, expected = (of(parameters(), batch(n), m) for m in (line(kind), None))
    atol = by_precision(float64=1e-10, float32=1e-4)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=atol, atol=atol)
    jax.tree.map(same, found, expected)


@pytest.mark.quick(1)
@pytest.mark.parametrize("shape", MESHES)
def test_products_add_up_parameters(shape):
    """Devices have their share of the work, and add up one number a parameter."""
    model = nn.Sequential([nn.Linear(64), nn.Relu(), nn.Linear(3)])
    model = model.init((50,), key=jr.key(0))

    def product(x1, x2, mesh=None):
        operator = eqt.NTKOperator(model, x1, x2, mesh=mesh)
        return operator.mv(vector_for(operator))

    mesh, n = MESHES[shape](), 64
    over = compiled_over(mesh, lambda a, b: product(a, b, mesh), n, n)
    assert flops(over) < 1.1 * flops(compiled_over(None, product, n, n)) / 4
    sizes, names = zip(*moved(over), strict=True)
    assert {*names} == {"all-reduce"}
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    assert sum(sizes) == sum(leaf.size for leaf in arrays)
