"""Kernels over whole data sets: any mesh gives the values of the plain call."""

import math
import os
import re
import socket
import subprocess
import sys
import textwrap

import equinox as eqx
import hypothesis as hyp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import eqtangents as eqt
from eqtangents import nn
from eqtangents._gram import _gram, _progress
from eqtangents._gram._plan import Plan
from mesh_cases import (
    NETWORKS,
    assert_same,
    connected,
    inputs,
    line,
    network,
    over_meshes,
    over_rings,
    over_shapes,
    square,
)
from precision import DTYPE, by_precision


@pytest.mark.slow
@over_shapes
@over_meshes
@over_rings
@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_those_of_the_plain_call(name, ring, kind, mesh):
    net, x = network(name), inputs(name, 9)
    found = eqt.gram(net, x, kind="both", mesh=mesh(kind), tile=2, ring=ring)
    assert_same(found, eqt.kernel(net, x))
    flat = np.moveaxis(np.asarray(found.ntk), 1, found.ntk.ndim // 2)
    flat = flat.reshape([math.isqrt(flat.size)] * 2)
    np.testing.assert_array_equal(flat, flat.T)


@pytest.mark.quick(1)
@over_shapes
@over_meshes
@over_rings
@pytest.mark.parametrize("name", NETWORKS)
def test_values_of_two_batches(name, ring, kind, mesh):
    net, x1, x2 = network(name), inputs(name, 7), inputs(name, 5, 1)
    found = eqt.gram(net, x1, x2, mesh=mesh(kind), tile=2, ring=ring)
    assert_same(found, eqt.ntk(net, x1, x2))


def slopes(kernel, net, x):
    """Derivatives of a function of the kernel in the inputs and a hyperparameter."""
    first = nn.Linear if x.ndim == 2 else lambda n, **std: nn.Conv(n, 1, **std)
    net = nn.Sequential([first(8, weight_std=jnp.asarray(1.2, DTYPE)), net])

    def loss(net_and_x):
        return jnp.sum(jnp.sin(kernel(*net_and_x)))

    return eqx.filter_jit(eqx.filter_grad(loss))((net, x))


@pytest.mark.slow
@over_meshes
@over_rings
@pytest.mark.parametrize("name", ["fully-connected", "pooled", "tanh", "repeated"])
def test_gradients(name, ring, kind):
    mesh, x = line(kind), inputs(name, 8)
    net = network(name)
    by_mesh = slopes(lambda *a: eqt.gram(*a, mesh=mesh, tile=2, ring=ring), net, x)
    expected = slopes(eqt.ntk, net, x)
    # Derivatives are sums of terms that cancel: they are as exact as the largest is.
    most = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    atol = most * by_precision(float64=1e-12, float32=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol),
        by_mesh,
        expected,
    )


@pytest.mark.slow
@over_rings
@pytest.mark.parametrize("n", [8, 9])
def test_the_result_is_split_where_it_can_be(ring, n):
    net, x, mesh = connected(), inputs("tanh", n), line()
    rows = PartitionSpec("d")
    found = eqt.gram(net, x, mesh=mesh, ring=ring)
    spec = rows if n == 8 else PartitionSpec()
    assert found.sharding.is_equivalent_to(NamedSharding(mesh, spec), 2)
    both = eqt.gram(net, x, inputs("tanh", 6, 1), mesh=square())
    spec = PartitionSpec("a" if n == 8 else None, "b")
    assert both.sharding.is_equivalent_to(NamedSharding(square(), spec), 2)


@pytest.mark.slow
def test_inputs_may_lie_anywhere():
    net, x, mesh = connected(), inputs("tanh", 8), line()
    expected = eqt.ntk(net, x)
    for spec in (PartitionSpec(), PartitionSpec("d")):
        put = jax.device_put(x, NamedSharding(mesh, spec))
        assert_same(eqt.gram(net, put, mesh=mesh, ring=True), expected)
    assert_same(eqt.gram(net, np.asarray(x), mesh=mesh), expected)
    assert_same(jax.jit(lambda x: eqt.gram(net, x, mesh=mesh))(x), expected)
    assert_same(eqt.gram(net, x), expected)
    assert_same(eqt.gram(net, x, tile=3), expected)


def laplace(a, b):
    return jnp.exp(-jnp.sum(jnp.abs(a[:, None] - b[None]), -1))


@pytest.mark.slow
@over_rings
@pytest.mark.parametrize("tile", [None, 2])
def test_functions_of_two_batches(ring, tile):
    x, options = inputs("tanh", 7), {"mesh": line(), "tile": tile, "ring": ring}
    assert_same(eqt.gram(laplace, x, **options), laplace(x, x))
    assert_same(eqt.gram(laplace, x, x[:5], **options), laplace(x, x[:5]))
    tree = lambda a, b: {"one": laplace(*a, *b), "two": 2 * laplace(*a, *b)}
    found = eqt.gram(tree, (x,), **options)
    assert_same(found, tree((x,), (x,)))
    lone = lambda a, b: (
        laplace(a, b)[..., None] * jnp.arange(3.0, dtype=DTYPE)[None, None]
    )
    lopsided = lambda a, b: lone(a, b) + jnp.sum(a, -1)[:, None, None]
    assert_same(eqt.gram(lopsided, x, **options), lopsided(x, x))


@pytest.mark.slow
@over_meshes
@pytest.mark.parametrize("implementation", ["auto", "jacobian", "structured"])
def test_empirical_kernels(implementation, kind):
    model = connected().init((5,), key=jr.key(2))
    x = inputs("tanh", 7)
    function = eqx.Partial(eqt.empirical_kernel, model, implementation=implementation)
    assert_same(eqt.gram(function, x, mesh=line(kind)), function(x, x))
    pairs = eqx.Partial(eqt.empirical_ntk, model, trace_axes=())
    assert_same(eqt.gram(pairs, x, x[:3], mesh=line(kind)), pairs(x, x[:3]))


@pytest.mark.slow
def test_averages_over_random_networks():
    net, x = connected(), inputs("tanh", 6)

    def sampled(a, b):
        return eqt.monte_carlo(net, a, b, jr.key(0), 4, batch_size=4).mean

    assert_same(eqt.gram(sampled, x, x[:5], mesh=line()), sampled(x, x[:5]))


@pytest.mark.slow
def test_graphs_and_tuples():
    x = jr.normal(jr.key(0), (6, 2, 4), DTYPE)
    edges = nn.Edges(
        jnp.arange(18).reshape(6, 3) % 4,
        jnp.arange(18).reshape(6, 3) % 3,
        jnp.ones((6, 3), DTYPE),
    )
    net = nn.Sequential([nn.Conv(4, 1), nn.Aggregate(), nn.Relu(), nn.GlobalAvgPool()])
    graph = nn.Graph(x, edges)
    assert_same(eqt.gram(net, graph, mesh=line(), tile=1), eqt.ntk(net, graph))
    pair = (inputs("tanh", 6), inputs("tanh", 6, 1)[:, :3])
    net = nn.Parallel([connected(), nn.Linear(2)])
    found = eqt.gram(net, pair, kind="nngp", mesh=line(), ring=True)
    assert_same(found, eqt.nngp(net, pair))


@pytest.mark.quick(1)
@pytest.mark.parametrize("n1", [0, 3])
def test_no_examples(n1):
    x = inputs("tanh", 3)
    assert eqt.gram(connected(), x[:n1], x[:0], mesh=line()).shape == (n1, 0)
    assert eqt.gram(laplace, x[:n1], x[:0], mesh=line()).shape == (n1, 0)
    assert eqt.gram(connected(), x[:n1], mesh=line()).shape == (n1, n1)


@pytest.mark.slow
@hyp.given(
    n1=st.integers(1, 70),
    n2=st.integers(1, 70),
    tile=st.integers(1, 20),
    devices=st.integers(1, 9),
    symmetric=st.booleans(),
    ring=st.booleans(),
)
@pytest.mark.precision("float32")
def test_each_pair_is_in_a_plan(n1, n2, tile, devices, symmetric, ring):
    n2 = n1 if symmetric else n2
    plan = Plan(n1, n2, (tile, tile), devices, 1, symmetric, ring)
    table = plan.table()
    t1, t2 = plan.sizes
    done = np.zeros(plan.padded, bool)
    for device, tiles in enumerate(table.reshape(devices, -1, 4)):
        for row, _, column, _ in tiles:
            first = device * plan.rows + row
            assert 0 <= row <= plan.rows - t1
            assert 0 <= column <= plan.width - t2
            done[first : first + t1, column : column + t2] = True
    assert (done | done.T if symmetric else done).all()
    rows = devices * math.ceil(plan.rows / t1)
    columns = plan.blocks * math.ceil(plan.columns / t2)
    pairs = rows * (rows + 1) // 2 if symmetric else rows * columns
    # The visits of a ring take equally long, up to one tile each.
    more = table.shape[1] if ring else 1
    assert table[0].size // 4 <= math.ceil(pairs / devices) + more
    if symmetric:
        owned = plan.owned().reshape(rows, rows).astype(int)
        np.testing.assert_array_equal(owned + owned.T, 1 + np.eye(rows, dtype=int))


@pytest.mark.slow
@over_rings
@pytest.mark.parametrize("mutation", ["dropped", "shifted"])
def test_a_wrong_tile_is_seen(ring, mutation, monkeypatch):
    table = Plan.table

    def wrong(plan):
        found = table(plan)
        if mutation == "dropped":
            found[1, 0, 0] = found[1, 0, 1]
        else:
            found[1, 0, 0, 2] += 1
        return found

    monkeypatch.setattr(Plan, "table", wrong)
    jax.clear_caches()
    net, x = connected(), inputs("tanh", 16)
    found = np.asarray(eqt.gram(net, x, mesh=line(), tile=2, ring=ring))
    jax.clear_caches()
    assert np.isnan(found).any()


@pytest.mark.parametrize(
    ("ring", "n", "tile"), [(False, 64, 4), (False, 48, 4), (True, 64, 4)]
)
@pytest.mark.quick(2)
def test_the_compiled_program_divides_the_work(ring, n, tile, monkeypatch):
    texts, run = [], eqx.filter_jit(_gram.all_at_once.__wrapped__)
    compiled = lambda task: texts.append(run.lower(task).compile().compiled.as_text())
    monkeypatch.setattr(_gram, "all_at_once", compiled)
    x = jr.normal(jr.key(0), (n, 50), DTYPE)
    eqt.gram(connected(), x, mesh=line(), tile=tile, ring=ring)
    (text,) = texts
    count = n // tile
    pairs, trips = count * (count + 1) // 2, 1
    for trip in re.findall(r'known_trip_count":\{"n":"(\d+)"', text):
        trips *= int(trip)
    assert trips <= math.ceil(pairs / 4) + 1
    assert trips >= pairs / 4
    assert "all-gather" not in text
    assert ("collective-permute" in text) == ring


@pytest.mark.slow
def test_progress(capsys, monkeypatch):
    net, x = connected(), inputs("tanh", 9)
    reports = []
    found = eqt.gram(net, x, mesh=line(), tile=1, progress=reports.append)
    assert_same(found, eqt.ntk(net, x))
    done = [report.done for report in reports]
    assert done == sorted(done)
    assert done[-1] == reports[-1].total == 45
    assert reports[-1].remaining == 0
    assert eqt.Progress(50, 200, 10.0).remaining == 30
    line_of_it = str(eqt.Progress(50, 200, 10.0))
    assert line_of_it == " 25% of 200 pairs, 5 a second, 0:00:30 left"
    monkeypatch.setattr(_progress, "_SECONDS_BEFORE", math.inf)
    found = eqt.gram(net, x, inputs("tanh", 5), mesh=line(), ring=True, progress=True)
    assert_same(found, eqt.ntk(net, x, inputs("tanh", 5)))
    assert capsys.readouterr() == ("", "")
    for name in ("_SECONDS_BEFORE", "_SECONDS_BETWEEN"):
        monkeypatch.setattr(_progress, name, 0.0)
    eqt.gram(net, x, tile=3, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("left\n")


@pytest.mark.usefixtures("without_jaxtyping")
def test_what_does_not_fit_is_said():
    net, x = connected(), inputs("tanh", 4)
    with pytest.raises(TypeError, match="`mesh` is 4, but must be a mesh"):
        eqt.gram(net, x, mesh=4)
    with pytest.raises(TypeError, match="`progress` is 'yes', but must be `True`"):
        eqt.gram(net, x, progress="yes")
    with pytest.raises(ValueError, match="`tile` is 0"):
        eqt.gram(net, x, tile=0)
    with pytest.raises(ValueError, match='`kind` is "nngp", but chooses among'):
        eqt.gram(laplace, x, kind="nngp")
    with pytest.raises(ValueError, match="`kind` is 'nntk'"):
        eqt.gram(net, x, kind="nntk")
    with pytest.raises(ValueError, match=r"`x2` is .*, but must be a batch"):
        eqt.gram(laplace, x, (x, x[:2]))
    with pytest.raises(TypeError, match="must be a network"):
        eqt.gram(4, x)


PROCESS = """
import sys
import jax
import numpy as np
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", sys.argv[3] == "float64")
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 2, int(sys.argv[2]))
import eqtangents as eqt
from eqtangents import nn
net = nn.Sequential([nn.Linear(8), nn.Relu(), nn.Linear(1)])
x = np.random.RandomState(0).normal(size=(16, 5)).astype(sys.argv[3])
mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
expected = np.asarray(eqt.ntk(net, x))
for ring in (False, True):
    for found in (
        eqt.gram(net, x, mesh=mesh, tile=2, ring=ring),
        eqt.gram(net, x, mesh=mesh, tile=2, ring=ring, progress=lambda p: None),
        eqt.gram(net, x, x[:7], mesh=mesh, tile=2, ring=ring),
        eqt.gram(net, x[:13], mesh=mesh, tile=2, ring=ring),
    ):
        assert len(found.addressable_shards) == 2
        for shard in found.addressable_shards:
            want = expected[: found.shape[0], : found.shape[1]][shard.index]
            np.testing.assert_allclose(shard.data, want, rtol=1e-5, atol=1e-6)
print("all as expected")
"""


def test_two_processes(tmp_path, precision):
    script = tmp_path / "process.py"
    script.write_text(textwrap.dedent(PROCESS))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    paths = os.pathsep.join(sys.path)
    processes = [
        subprocess.Popen(
            [sys.executable, script, port, str(number), precision],
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    for process in processes:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert "all as expected" in said


@pytest.mark.slow
def test_diagonals_stay_split_over_explicit_axes():
    net, x = connected(), inputs("tanh", 8)
    rows = NamedSharding(line("explicit"), PartitionSpec("d"))
    found = eqt.kernel_diagonal(net, jax.device_put(x, rows))
    assert found.ntk.sharding.is_equivalent_to(rows, 1)
    assert_same(found, eqt.kernel_diagonal(net, x))
