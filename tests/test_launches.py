"""What programs start, for every kind of device: operations, conditionals, memory."""

import math
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, PartitionSpec
from numpy.testing import assert_allclose

import eqtangents as eqt
from benchmarks.cases import kernels as k
from benchmarks.children.kernels_eqtangents import sequential
from benchmarks.harness import ROOT
from benchmarks.launches import Launches, compiled, launches
from eqtangents import nn
from eqtangents._budget import ACCELERATOR, CPU, Budget, budget, suiting, under
from eqtangents._tile_plan import tile_sizes


pytestmark = pytest.mark.precision("float32")  # nothing here depends on it

PROGRAM = """HloModule example

%wrapped (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %double = f32[2]{0} add(%p, %p)
}

%inner (s: (s32[], f32[2])) -> (s32[], f32[2]) {
  %s = (s32[], f32[2]{0}) parameter(0)
  %x = f32[2]{0} get-tuple-element(%s), index=1
  %either = f32[2]{0} conditional(%i, %x, %x), branch_computations={%wrapped, %two}
  ROOT %t = (s32[], f32[2]{0}) tuple(%i, %either)
}

%two (q: f32[2]) -> f32[2] {
  %a = f32[2]{0} call(%q), to_apply=%wrapped
  ROOT %b = f32[2]{0} fusion(%a), kind=kLoop, calls=%wrapped
}

%outer (s: (s32[], f32[2])) -> (s32[], f32[2]) {
  ROOT %w = (s32[], f32[2]{0}) while(%s), condition=%c, body=%inner, \
backend_config={"known_trip_count":{"n":"5"}}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %all = f32[4]{0} all-gather-start(%x), dimensions={0}
  %done = f32[4]{0} all-gather-done(%all)
  %w = (s32[], f32[2]{0}) while(%t), condition=%c, body=%outer, \
backend_config={"known_trip_count":{"n":"3"}}
  ROOT %y = f32[2]{0} fusion(%done), kind=kLoop, calls=%two
}
""".replace("\\\n", "")


def test_loops_branches_and_calls_are_counted():
    # The conditional and the longer of its branches, five times; the loop; all thrice.
    operations = 1 + 1 + 3 * (1 + 5 * 3) + 1
    assert launches(PROGRAM) == Launches(operations, 15, 15, 1)
    with pytest.raises(ValueError, match="a loop whose length"):
        launches(PROGRAM.replace("known_trip_count", "else"))


def pooled(depth=1):
    return k.deep(depth, k.GLOBAL_AVG_POOL)


def test_accelerators_have_no_conditionals_in_loops():
    shape, small = (3, 1, 4, 4), Budget(2**10, 2**20, 2**20, conditionals=False)
    assert compiled(pooled(), shape, small).launches.conditionals == 0
    on_cpu = compiled(pooled(), shape, small._replace(conditionals=True))
    assert on_cpu.launches.conditionals_in_loops > 0


@pytest.mark.slow
@pytest.mark.parametrize("readout", [k.GLOBAL_AVG_POOL, k.FLATTEN])
def test_gradients_have_no_conditionals_in_loops(readout):
    network = [k.conv(), k.RELU, k.HALVE, k.conv(), k.RELU, readout]
    small = Budget(2**11, 2**20, 2**20, conditionals=False)
    found = compiled(network, (4, 1, 4, 4), small, gradient=True)
    assert found.launches.operations > 100
    assert found.launches.conditionals_in_loops == 0


@pytest.mark.slow
def test_operations_an_entry_fall_until_the_budget_is_full():
    """Fully-connected: one tile as long as it fits a block, then as many as needed."""
    small = ACCELERATOR._replace(block_bytes=4 * 64**2)
    counts = {
        n: compiled(k.fully_connected(1), (n, 3), small).launches.operations
        for n in (8, 64, 256)
    }
    assert counts[64] <= counts[8] + 5
    assert counts[256] <= 1.5 * 16 * counts[64]


@pytest.mark.slow
def test_displacements_fill_the_budget_together():
    small = ACCELERATOR._replace(block_bytes=4 * 4**2 * 8**4)
    reports = {n: compiled(pooled(2), (n, 1, 8, 8), small) for n in (2, 4, 8, 16)}
    counts = {n: report.launches.operations for n, report in reports.items()}
    assert counts[4] <= 1.1 * counts[2]
    assert counts[8] <= 4.4 * counts[4]
    assert counts[16] <= 4.4 * counts[8]
    # Memory does not depend on the number of examples, but for inputs and result.
    assert reports[16].temporary_bytes <= 1.2 * reports[4].temporary_bytes
    assert reports[16].temporary_bytes <= 32 * small.block_bytes


@pytest.mark.slow
def test_blocks_are_within_the_budget_where_they_are_widest():
    """Before a stride, each displacement of the output is many times as wide."""
    strided = [k.conv(stride=4), k.RELU, k.GLOBAL_AVG_POOL]
    small = ACCELERATOR._replace(block_bytes=4 * 2**2 * 32**2)
    report = compiled([k.conv(), k.RELU, *strided], (2, 1, 32, 32), small)
    assert report.temporary_bytes <= 24 * small.block_bytes


READOUTS = {"pooled": k.GLOBAL_AVG_POOL, "flattened": k.FLATTEN}


@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
def test_no_block_is_reduced_entry_by_entry(readout):
    """What is left to reduce is small against what is added up in vectors."""
    n, size = 4, 8
    shape = jax.ShapeDtypeStruct((n, 1, size, size), jnp.float32)
    net = sequential(k.deep(1, readout))
    program = jax.jit(lambda x1, x2: eqt.kernel(net, x1, x2))
    text = program.lower(shape, shape).compile().as_text()
    shapes = dict(re.findall(r"(%[\w.\-]+) = f32\[([\d,]*)\]", text))
    read = [shapes[name] for name in re.findall(r" reduce\((%[\w.\-]+),", text)]
    entries = [math.prod(map(int, filter(None, one.split(",")))) for one in read]
    assert max(entries, default=0) < n * n * size * size


def test_masks_have_the_axes_of_the_matrix():
    """With others, a symmetric matrix of 200 examples took minutes to compile."""
    n = 30
    shape = jax.ShapeDtypeStruct((n, 3), jnp.float32)
    net = sequential(k.fully_connected(1))
    text = jax.jit(lambda x: eqt.ntk(net, x)).lower(shape).compile().as_text()
    masks = re.findall(rf"pred\[({n},{n}[\d,]*)\]", text)
    assert set(masks) == {f"{n},{n}"}


@pytest.mark.slow
def test_foundation_workloads_are_within_their_limits():
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.launches"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr


# ------------------------------------------------------------------------------------
# Which budget counts.
# ------------------------------------------------------------------------------------


def net():
    return nn.Sequential([nn.Conv(1, 3, padding="SAME"), nn.Relu(), nn.GlobalAvgPool()])


def conditionals(function, *shapes):
    """How many there are in the program that is traced."""
    return str(jax.jit(function).trace(*shapes).jaxpr).count("cond[")


IMAGES = jax.ShapeDtypeStruct((2, 1, 6), jnp.float32)


def test_the_budget_is_that_of_the_device(monkeypatch):
    assert budget() is CPU
    with under(ACCELERATOR):
        assert budget() is ACCELERATOR
        with suiting(jnp.ones(2)):
            assert budget() is ACCELERATOR
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert budget() is ACCELERATOR
    with suiting(jnp.ones(2)):  # It will go to the default device.
        assert budget() is ACCELERATOR
    with suiting({"a": 1, "b": jax.device_put(jnp.ones(2), jax.devices()[1])}):
        assert budget() is CPU
    with jax.default_device(jax.devices()[1]):
        assert budget() is CPU
    with suiting(jax.make_mesh((2,), ("d",))):
        assert budget() is CPU


def test_one_function_is_traced_for_each_budget():
    function = lambda x: eqt.ntk(net(), x, x)
    assert conditionals(function, IMAGES) > 0
    with under(ACCELERATOR):
        assert conditionals(function, IMAGES) == 0
    assert conditionals(function, IMAGES) > 0


def test_options_are_those_of_whoever_compiles_the_program():
    """Told a wrong option, XLA refuses what the library compiles, and nothing else."""
    net, x = sequential(k.fully_connected(1)), jnp.eye(2)
    row = lambda x: eqt.ntk(net, x, jnp.eye(2)).sum()
    one = lambda _: eqt.ntk(net, jnp.eye(2)).sum()  # which depends on no argument
    numbers = jnp.arange(2.0)
    with under(CPU._replace(compiler_options=(("no_such_option", 1),))):
        for call in (row, eqt.gram, eqt.kernel_diagonal):
            with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
                call(x) if call is row else call(net, x)
        found = [
            jax.jit(row)(x),
            jax.jit(one)(x),
            jax.lax.map(one, numbers)[0],
            jax.value_and_grad(row)(x)[0],
            jax.vmap(row)(x[None])[0],
            jax.jvp(one, (x,), (x,))[0],
        ]
    assert_allclose(found, [row(x)] * len(found), rtol=1e-6)


def test_programs_for_the_mesh_of_another_machine_suit_it():
    kind = {"device_kind": "NVIDIA H100", "num_cores": None}
    if "platform" in AbstractDevice.__init__.__annotations__:
        kind["platform"] = "cuda"
    device = AbstractDevice(**kind)
    kinds = (AxisType.Auto,)  # JAX 0.12 has others unless told
    mesh = AbstractMesh((2,), ("d",), axis_types=kinds, abstract_device=device)
    rows = PartitionSpec("d")
    mapped = jax.shard_map(
        lambda a: eqt.ntk(net(), a, a), mesh=mesh, in_specs=rows, out_specs=rows
    )
    assert conditionals(mapped, IMAGES) == 0


@pytest.mark.parametrize("limit", [2**10, 2**20])
def test_tables_of_a_tile_are_within_the_budget(limit):
    layers = [nn.Conv(1, 3, padding="SAME"), nn.AvgPool(2, 2), nn.GlobalAvgPool()]
    x = jnp.zeros((9, 1, 8), jnp.float32)
    with under(CPU._replace(table_bytes=limit)):
        rows, columns = tile_sizes(nn.Sequential(layers), x, 9, 9, symmetric=False)
        plain = tile_sizes(nn.Sequential(layers[::2]), x, 9, 9, symmetric=False)
    assert rows * columns * 4 * 4**2 <= limit
    assert (rows, columns) == (9, 9) or rows * columns > limit // (4 * 4**2) // 2
    assert plain == (9, 9)
