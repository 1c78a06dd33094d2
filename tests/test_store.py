"""Matrices in a store: values of the plain call, of one network and one data set."""

import concurrent.futures
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import pickle
import shutil
import threading
import time
import types
import uuid
from typing import ClassVar

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
from eqtangents._gram import _job, _manifest, _run, _task
from eqtangents._gram._facts import facts
from eqtangents._gram._mirror import upper_mirrored
from mesh_cases import NETWORKS, assert_same, connected, inputs, line, network
from random_networks import networks


zarr = pytest.importorskip("zarr")
fsspec = pytest.importorskip("fsspec")
asyn = pytest.importorskip("fsspec.asyn")


def files(store):
    """The chunks of a store: contents, and what tells files written anew."""
    paths = [p for p in pathlib.Path(store).rglob("c/**/*") if p.is_file()]
    return {
        p.relative_to(store).as_posix(): (p.read_bytes(), p.stat().st_ino)
        for p in paths
    }


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [None, line], ids=["alone", "mesh"])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_those_of_the_plain_call(name, mesh, tmp_path):
    net, x = network(name), inputs(name, 7)
    made = None if mesh is None else mesh()
    found = eqt.gram(net, x, kind="both", store=tmp_path / "a", tile=3, mesh=made)
    assert_same(jax.tree.map(np.asarray, found), eqt.kernel(net, x))
    flat = np.moveaxis(found.ntk[:], 1, found.ntk.ndim // 2)
    flat = flat.reshape([round(flat.size**0.5)] * 2)
    np.testing.assert_array_equal(flat, flat.T)
    some = jax.tree.map(lambda leaf: leaf[:4], x)
    found = eqt.gram(net, x, some, store=tmp_path / "b", tile=3, mesh=mesh)
    assert_same(found[:], eqt.ntk(net, x, some))


indices = st.one_of(
    st.integers(-9, 8),
    st.slices(9),
    st.lists(st.integers(-9, 8), min_size=1, max_size=5),
)


@pytest.mark.slow
@hyp.given(rows=indices, columns=indices)
@hyp.settings(max_examples=40)
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.precision("float32")
def test_reading(alone, rows, columns, stored_matrices):
    found, whole = stored_matrices[alone]
    np.testing.assert_array_equal(found[rows], whole[rows])
    expected = whole[rows][..., columns]
    np.testing.assert_array_equal(found[rows, columns], expected)


@pytest.fixture(scope="module")
def stored_matrices(precision, tmp_path_factory):
    """By whether there is no second batch: a matrix in a store, and in memory."""
    x, place = inputs("tanh", 9), tmp_path_factory.mktemp("stores")
    both = {True: None, False: inputs("tanh", 9, 1)}
    found = {
        alone: eqt.gram(connected(), x, x2, store=place / str(alone), tile=4)
        for alone, x2 in both.items()
    }
    return {alone: (matrix, np.asarray(matrix)) for alone, matrix in found.items()}


@pytest.mark.quick(1)
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.precision("float32")
def test_whole_matrices(alone, stored_matrices):
    found, whole = stored_matrices[alone]
    assert (found.shape, found.ndim, len(found)) == ((9, 9), 2, 9)
    assert found.dtype == whole.dtype == np.float32
    assert found.symmetric == alone
    assert found.tile == (3, 3)
    np.testing.assert_array_equal(found.diagonal(), np.diagonal(whole))
    for vectors in (np.arange(9.0), np.eye(9, 2, dtype=np.float32), jnp.ones(9)):
        expected = whole @ np.asarray(vectors)
        np.testing.assert_allclose(found @ vectors, expected, rtol=1e-5, atol=1e-5)
    built = np.zeros_like(whole)
    for rows, columns, block in found.tiles():
        built[rows, columns] = block
        if alone:
            built[columns, rows] = block.T
    np.testing.assert_array_equal(built, whole)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(np.asarray(again, float), whole.astype(float))
    assert "'matrix', shape=(9, 9), dtype=float32" in repr(again)


@pytest.mark.precision("float32")
def test_products_do_not_lose_what_cancels(tmp_path):
    x = inputs("tanh", 300)
    found = eqt.gram(connected(), x, store=tmp_path / "a", tile=64)
    vectors = np.linalg.svd(found[:].astype(float))[0][:, -1:].astype(np.float32)
    expected = found[:].astype(float) @ vectors.astype(float)
    product = found @ vectors
    assert product.dtype == np.float32
    np.testing.assert_allclose(product, expected, rtol=1e-5, atol=0)


def laplace(a, b):
    return jnp.exp(-jnp.sum(jnp.abs(a[:, None] - b[None]), -1))


@pytest.mark.slow
@pytest.mark.precision("float32")
def test_trees_and_places(tmp_path, monkeypatch):
    x = inputs("tanh", 5)
    tree = lambda a, b: {"one": laplace(a, b), "two": (2 * laplace(a, b),)}
    found = eqt.gram(tree, x, store="memory://test_trees/gram.zarr", tile=2)
    assert_same(jax.tree.map(np.asarray, found), tree(x, x))
    two = eqt.StoredGram("memory://test_trees/gram.zarr", "two/0")
    np.testing.assert_array_equal(two[:], found["two"][0][:])
    more = lambda a, b: laplace(a, b)[..., None] + jnp.sum(a, -1)[:, None, None]
    monkeypatch.chdir(tmp_path)
    found = eqt.gram(more, x, store="a", tile=2)
    assert (tmp_path / "a/zarr.json").exists()
    found = eqt.gram(more, x, store=f"file://{tmp_path}/b", tile=2)
    assert_same(found[:], more(x, x))
    np.testing.assert_array_equal(found[1, 2, 0], found[:][1, 2, 0])
    np.testing.assert_array_equal(
        eqt.gram(more, x, store=zarr.storage.LocalStore(tmp_path / "b"))[:], found[:]
    )
    whole = lambda a, b: jnp.zeros((len(a), len(b)), int)  # as what is not there reads
    found = eqt.gram(whole, x, store=tmp_path / "c", tile=2)
    assert_same(found[:], whole(x, x))
    assert eqt.gram(laplace, x[:0], store=tmp_path / "d")[:].shape == (0, 0)
    assert eqt.gram(laplace, x, x[:0], store=tmp_path / "e")[:].shape == (5, 0)


def count_computed(monkeypatch):
    """The tiles that are computed from now on."""
    tiles, blocks = [], _job.Job.blocks
    count = lambda job, tile: tiles.append(tile) or blocks(job, tile)
    monkeypatch.setattr(_job.Job, "blocks", count)
    return tiles


@pytest.mark.precision("float32")
def test_all_tiles_are_one_program(tmp_path):
    traced = []

    def kernel(a, b):
        traced.append(len(a))
        return laplace(a, b)

    eqt.gram(kernel, inputs("tanh", 11), store=tmp_path / "a", tile=4)
    assert traced.count(4) == 1  # and of single examples, for shapes
    assert len(files(tmp_path / "a")) == 6


@pytest.mark.precision("float32")
def test_what_is_there_is_kept(tmp_path, monkeypatch):
    net, x = connected(), inputs("tanh", 8)
    tiles, reports = count_computed(monkeypatch), []
    monkeypatch.setattr(_run, "IN_FLIGHT", 2)  # what is under way is finished, no more

    def interrupt(progress):
        reports.append(progress)
        if len(reports) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        eqt.gram(net, x, store=tmp_path / "a", tile=2, progress=interrupt)
    assert "3 of 10 tiles are in" in raised.value.__notes__[0]
    before, first = files(tmp_path / "a"), len(tiles)
    assert 3 <= len(before) == first < 10
    with pytest.raises(ValueError, match=r"is not there yet\. Call `eqtangents\.gram`"):
        eqt.StoredGram(tmp_path / "a")[:]
    found = eqt.gram(net, x, store=tmp_path / "a", progress=reports.append)
    assert sorted(tiles) == sorted(set(tiles))
    assert len(tiles) == 10
    assert (
        reports[-1].kept
        == sum(4 - (i == j) for i, j in tiles[:first])
        == reports[-1].total - sum(4 - (i == j) for i, j in tiles[first:])
    )
    assert before.items() <= files(tmp_path / "a").items()
    assert_same(found[:], eqt.ntk(net, x))
    eqt.gram(net, x, store=tmp_path / "a", progress=reports.append)
    assert len(tiles) == 10
    assert reports[-1].rate == 0


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"0",
    "changed": lambda data: data[:5] + bytes([data[5] ^ 1]) + data[6:],
    "changed checksum": lambda data: data[:-1] + bytes([data[-1] ^ 128]),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.precision("float32")
def test_a_damaged_tile_is_computed_again(damage, tmp_path, monkeypatch):
    x = inputs("tanh", 6)
    eqt.gram(laplace, x, store=tmp_path / "a", tile=2)
    chunk, before = tmp_path / "a/matrix/c/0/2", files(tmp_path / "a")
    chunk.write_bytes(damage(chunk.read_bytes()))
    left = chunk.parent / f"2.{uuid.uuid4().hex}.partial"
    left.write_bytes(b"what a killed process leaves")
    matrix = eqt.StoredGram(tmp_path / "a")
    with pytest.raises(ValueError, match=r"Tile \(0, 2\) of .* is damaged"):
        matrix[5, 0]
    matrix[3]  # is in other tiles
    tiles = count_computed(monkeypatch)
    eqt.gram(laplace, x, store=tmp_path / "a", tile=2)
    assert tiles == [(0, 2)]
    contents = lambda found: {name: content for name, (content, _) in found.items()}
    assert contents(files(tmp_path / "a")) == contents(before)


def places(value, within=()):
    """All leaves of JSON."""
    if isinstance(value, dict | list) and value:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, part in pairs:
            yield from places(part, (*within, name))
    else:
        yield within


@pytest.mark.slow
def test_every_fact_of_the_manifest_counts(tmp_path):
    net, x, x2 = connected(), inputs("tanh", 4), inputs("tanh", 3)
    run = lambda: eqt.gram(net, x, x2, store=tmp_path / "a", tile=2)
    run()
    path = tmp_path / "a/zarr.json"
    text = path.read_text()
    manifest = json.loads(text)["attributes"]["eqtangents"]
    assert {"kernel", "x1", "x2", "tile", "shape", "settings", "versions"} <= {
        *manifest
    }
    for *place, last in places(manifest):
        whole = json.loads(text)
        part = whole["attributes"]["eqtangents"]
        for name in place:
            part = part[name]
        part[last] = "another"
        path.write_text(json.dumps(whole))
        with pytest.raises(ValueError, match=r"is of another call: `.*in the store"):
            run()
    array = tmp_path / "a/matrix/zarr.json"
    path.write_text(text)
    for old, new in (("[4, 3]", "[4, 4]"), ("false", "true"), ("[2, 2]", "[2, 3]")):
        was = array.read_text()
        spaced = " ".join(was.split()).replace("[ ", "[").replace(" ]", "]")
        assert old in spaced
        array.write_text(spaced.replace(old, new))
        with pytest.raises(ValueError, match="was changed since this store was begun"):
            run()
        array.write_text(was)


@pytest.mark.slow
def test_another_call_is_refused(tmp_path):
    net, x = connected(), inputs("tanh", 4)
    eqt.gram(net, x, store=tmp_path / "a", tile=2)
    wide = nn.Sequential([nn.Linear(8), nn.Relu(), nn.Linear(1, weight_std=2.0)])
    for name, (other, batch, options) in {
        "kernel.net.layers[2].weight_std": (wide, x, {}),
        "kernel.net.layers[1]": (connected(nn.Erf), x, {}),
        "kernel.kind": (net, x, {"kind": "nngp"}),
        "tile": (net, x, {"tile": 3}),
        "x1": (net, x.at[1, 2].add(1), {}),
        "x2": (net, x, {"x2": x}),
        "shape": (net, x[:3], {}),
        "names": (net, x, {"kind": "both"}),
        "settings.jax_default_matmul_precision": (net, x, {}),
    }.items():
        precision = "bfloat16" if "precision" in name else None
        with pytest.raises(ValueError, match="is of another call") as raised:
            with jax.default_matmul_precision(precision):
                eqt.gram(other, batch, store=tmp_path / "a", **options)
        assert f"`{name}` is" in str(raised.value)


@pytest.mark.slow
@hyp.given(drawn=networks())
@hyp.settings(max_examples=20)
@pytest.mark.precision("float32")
def test_every_field_of_a_network_is_a_fact(drawn):
    net = drawn.net
    known = facts("net", net)
    assert facts("net", jax.tree.map(lambda leaf: leaf, net)) == known
    for place, field, module in fields("net", net):
        changed = object.__new__(type(module))
        for name in module.__dataclass_fields__:
            value = "another" if name == field else getattr(module, name, None)
            object.__setattr__(changed, name, value)
        assert facts(place, changed) != {
            name: fact for name, fact in known.items() if name.startswith(place)
        }
        assert f"{place}.{field}" in known


def fields(place, node):
    """All fields of all modules within a network."""
    if isinstance(node, eqx.Module):
        for field in dataclasses.fields(node):
            yield place, field.name, node
            more = getattr(node, field.name, None)
            yield from fields(f"{place}.{field.name}", more)
    elif isinstance(node, tuple | list):
        for i, one in enumerate(node):
            yield from fields(f"{place}[{i}]", one)


scale = 2.0


def scaled(x):
    return scale * x


def test_facts_of_functions():
    def made(by, default=1.0):
        return lambda x, y=default: by * x + y

    same = facts("f", made(1.0))
    assert facts("f", made(1.0)) == same
    others = [made(2.0), made(1.0, 2.0), lambda x, y=1.0: x * 1.0 + y, jnp.tanh]
    others += [jax.jit(made(1.0)), functools.partial(made(1.0), y=2.0)]
    others += [made(jnp.ones(2)), made(jnp.ones(2, jnp.float16)), made(np.ones(100))]
    others += [jax.vmap(made(1.0)), eqx.Partial(made(1.0)), eqx.filter_jit(made(1.0))]
    found = [same, *(facts("f", other) for other in others)]
    assert all(a != b for a, b in itertools.combinations(found, 2))
    assert facts("f", scaled)["f:scale"] == "2.0"
    moved = types.FunctionType(scaled.__code__, {"scale": 3.0})
    assert facts("f", moved) != facts("f", scaled)
    assert facts("f", jnp.tanh) == {"f": "the function jax.numpy.tanh"}
    long = np.arange(100.0)
    assert facts("a", long) == facts("a", long.reshape(50, 2)[:, :].reshape(-1))
    assert facts("a", long) != facts("a", np.where(long == 50, 0, long))
    assert facts("a", np.asfortranarray(long.reshape(4, 25))) == facts(
        "a", long.reshape(4, 25)
    )
    assert facts("a", np.float32(2)) != facts("a", 2.0)
    assert facts("k", jr.key(1)) != facts("k", jr.key(2))
    opened = open(os.devnull)
    with opened, pytest.raises(TypeError, match=r"`f:opened` is a `TextIOWrapper`"):
        facts("f", lambda x: opened.read() and x)


@pytest.mark.usefixtures("without_jaxtyping")
def test_what_does_not_fit_is_said(tmp_path):
    net, x = connected(), inputs("tanh", 4)
    run = functools.partial(eqt.gram, net, x)
    with pytest.raises(TypeError, match="`store` is 4, but must be a path, a URL"):
        run(store=4)
    with pytest.raises(ValueError, match="`executor` is 4, whose workers write to"):
        run(executor=4)
    with pytest.raises(TypeError, match="`executor` is 4, but must be one of"):
        run(store=tmp_path / "a", executor=4)
    with pytest.raises(ValueError, match="`ring` splits the columns of a whole"):
        run(store=tmp_path / "a", ring=True)
    with pytest.raises(TypeError, match="`mesh` is 4, but must be a mesh"):
        run(store=tmp_path / "a", mesh=4)
    with pytest.raises(TypeError, match="`mesh` made 4, but must be a mesh"):
        run(store=tmp_path / "a", mesh=lambda: 4)
    with pytest.raises(ValueError, match=r"`x1` has .* not known in this process"):
        jax.jit(lambda x: eqt.gram(net, x, store=tmp_path / "b"))(x)
    wide = lambda std: eqt.gram(nn.Linear(2, weight_std=std), x, store=tmp_path / "b")
    with pytest.raises(ValueError, match=r"`kernel` has .* not known in this process"):
        jax.grad(wide)(jnp.asarray(2.0))
    with pytest.raises(FileNotFoundError, match="There is nothing at"):
        eqt.StoredGram(tmp_path / "d")
    both = run(kind="both", store=tmp_path / "e")
    with pytest.raises(ValueError, match='has the matrices "nngp", "ntk": choose'):
        eqt.StoredGram(tmp_path / "e")
    for index in (..., 0), None, True, [[0, 1]], (0, None), (0, [[1]]), (0, 0, 0):
        with pytest.raises(IndexError, match="takes rows and columns"):
            both.ntk[index]
    with pytest.raises(ValueError, match=r"with an array of shape \(3,\)"):
        both.ntk @ np.ones(3)
    with pytest.raises(ValueError, match="read into a new array"):
        np.array(both.ntk, copy=False)
    with pytest.raises(ValueError, match="The diagonal is that of a matrix of one"):
        eqt.gram(net, x, x[:2], store=tmp_path / "f").diagonal()


def snapshot(path):
    """What lies at a place: files of a folder, with their contents."""
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {one: one.read_bytes() for one in found if one.is_file()}


def other_files(path):
    path.mkdir()
    (path / "download.partial").write_text("of another program")
    (path / "notes.txt").write_text("mine")


def broken_manifest(path):
    path.mkdir()
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type"')


def another_manifest(path):
    zarr.open_group(path, mode="w").attrs["eqtangents"] = 4


ELSE = {
    "a file": (lambda path: path.write_text("mine"), "is a file"),
    "other files": (other_files, "has other files, 'download.partial' say"),
    "an array": (lambda path: zarr.save_array(path, np.ones(3)), "cannot be opened"),
    "a group": (lambda path: zarr.open_group(path, mode="w"), "that is no matrix of"),
    "an old group": (
        lambda path: zarr.open_group(path, mode="w", zarr_format=2),
        "that is no matrix of",
    ),
    "a broken manifest": (broken_manifest, "cannot be opened"),
    "another manifest": (another_manifest, "that is no matrix of"),
}


@pytest.mark.parametrize(("make", "match"), ELSE.values(), ids=ELSE.keys())
@pytest.mark.precision("float32")
def test_what_else_is_there_is_left_alone(make, match, tmp_path):
    make(tmp_path / "a")
    before = snapshot(tmp_path / "a")
    for place in (tmp_path / "a", zarr.storage.LocalStore(tmp_path / "a")):
        with pytest.raises(ValueError, match=f"a.? .*{match}.*Give another place"):
            eqt.gram(laplace, inputs("tanh", 3), store=place)
        with pytest.raises(ValueError, match=match):
            eqt.StoredGram(place)
    assert snapshot(tmp_path / "a") == before


@pytest.mark.precision("float32")
def test_whatever_is_lost_is_mended_or_said(tmp_path):
    x, whole = inputs("tanh", 4), tmp_path / "whole"
    expected = eqt.gram(laplace, x, store=whole, tile=2)[:]
    ways = {
        "removed": pathlib.Path.unlink,
        "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "emptied": lambda path: path.write_bytes(b""),
    }
    names = [path.relative_to(whole) for path in snapshot(whole)]
    assert len(names) == 2 + 3
    for i, (name, way) in enumerate(itertools.product(names, ways)):
        store = tmp_path / str(i)
        shutil.copytree(whole, store)
        ways[way](store / name)
        with pytest.raises((ValueError, FileNotFoundError), match=str(store)):
            eqt.StoredGram(store)[:]
        of_matrix = name.name == "zarr.json" and len(name.parts) > 1
        if name.parts == ("zarr.json",) or (of_matrix and way != "removed"):
            with pytest.raises(ValueError, match=f"{store}.* Give another place"):
                eqt.gram(laplace, x, store=store, tile=2)
        else:
            found = eqt.gram(laplace, x, store=store, tile=2)
            np.testing.assert_array_equal(found[:], expected)


class Bucket(asyn.AsyncFileSystem):
    """Objects by name, as a service has them: without folders, and never moved."""

    protocol = "bucket"
    objects: ClassVar[dict[str, bytes]] = {}

    def below(self, path):
        start = f"{self._strip_protocol(path)}/"
        return {name for name in self.objects if name.startswith(start)}

    async def _info(self, path, **options):
        name = self._strip_protocol(path)
        if name in self.objects:
            return {"name": name, "size": len(self.objects[name]), "type": "file"}
        if self.below(path):
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(name)

    async def _ls(self, path, detail=True, **options):
        depth = self._strip_protocol(path).count("/") + 2
        names = {"/".join(name.split("/")[:depth]) for name in self.below(path)}
        found = [await self._info(name) for name in sorted(names)]
        return found if detail else sorted(names)

    async def _cat_file(self, path, start=None, end=None, **options):
        await self._info(path)
        return self.objects[self._strip_protocol(path)][start:end]

    async def _pipe_file(self, path, value, mode="overwrite", **options):
        self.objects[self._strip_protocol(path)] = bytes(value)

    async def _rm_file(self, path, **options):
        self.objects.pop(self._strip_protocol(path), None)


def in_a_bucket(folder):
    """A URL, and how its objects are read and written."""
    fsspec.register_implementation(Bucket.protocol, Bucket, clobber=True)
    name = folder.as_posix().strip("/")
    return f"bucket://{name}", Bucket.objects, f"{name}/matrix/c/0/1"


def with_options(folder):
    """A file system that is not asynchronous, and makes folders only if told so."""
    options = {"auto_mkdir": True}
    url = f"local://{folder}"
    store = zarr.storage.FsspecStore.from_url(url, storage_options=options)
    return store, Contents(), folder / "matrix/c/0/1"


class Contents:
    """Files as a dictionary."""

    def __getitem__(self, path):
        return path.read_bytes()

    def __setitem__(self, path, content):
        path.write_bytes(content)


@pytest.mark.parametrize("make", [in_a_bucket, with_options])
@pytest.mark.precision("float32")
def test_other_file_systems(make, tmp_path, monkeypatch):
    x = inputs("tanh", 5)
    place, contents, chunk = make(tmp_path / "a")
    tiles = count_computed(monkeypatch)
    run = functools.partial(eqt.gram, laplace, x, store=place, tile=2)
    found = run(executor=Elsewhere())
    assert_same(found[:], laplace(x, x))
    again = pickle.loads(pickle.dumps(eqt.StoredGram(place)))
    np.testing.assert_array_equal(again[:], found[:])
    assert len(tiles) == 6
    whole = contents[chunk]
    contents[chunk] = whole[:-1]
    with pytest.raises(ValueError, match=r"Tile \(0, 1\) of .* is damaged"):
        again[:]
    run()
    assert tiles[6:] == [(0, 1)]
    assert contents[chunk] == whole
    with pytest.raises(ValueError, match=r"is of another call: `x1"):
        eqt.gram(laplace, x + 1, store=place, tile=2)


@pytest.mark.precision("float32")
def test_what_another_run_writes_is_left_to_it(tmp_path):
    x = inputs("tanh", 4)
    eqt.gram(laplace, x, store=tmp_path / "a", tile=2)
    old, new = (
        tmp_path / "a/matrix/c/0" / f"1.{uuid.uuid4().hex}.partial" for _ in range(2)
    )
    for path, later in ((old, -60), (new, 60)):
        path.write_bytes(b"some of it")
        os.utime(path, (time.time() + later,) * 2)
    eqt.gram(laplace, x, store=tmp_path / "a")
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.precision("float32")
def test_operators_need_all_tiles(tmp_path):
    found = eqt.gram(laplace, inputs("tanh", 5), store=tmp_path / "a", tile=2)
    assert eqt.GramOperator(found, noise=1.0).shape == (5, 5)
    (tmp_path / "a/matrix/c/1/2").unlink()
    with pytest.raises(ValueError, match=r"1 of 6 tiles of .* Call `eqtangents\.gram`"):
        eqt.GramOperator(eqt.StoredGram(tmp_path / "a"), noise=1.0)
    other = eqt.gram(
        laplace, inputs("tanh", 5), inputs("tanh", 2), store=tmp_path / "b"
    )
    assert eqt.GramOperator(other).shape == (5, 2)


@pytest.mark.precision("float32")
def test_positions_are_mirrored_within_a_tile():
    block = np.arange(2 * 2 * 3 * 3.0).reshape(2, 2, 3, 3)
    found = upper_mirrored(block)
    flat = np.moveaxis(found, 1, 2).reshape(6, 6)
    np.testing.assert_array_equal(flat, flat.T)
    before = np.moveaxis(block, 1, 2).reshape(6, 6)
    np.testing.assert_array_equal(np.triu(flat), np.triu(before))


class Elsewhere(concurrent.futures.Executor):
    """Workers that know no job of this process, one task after the other."""

    def __init__(self, before=lambda: None):
        self.before = before

    def submit(self, *call):
        future, own = concurrent.futures.Future(), dict(_task._OWN)
        _task._OWN.clear()
        try:
            self.before()
            future.set_result(call[0](*call[1:]))
        except Exception as error:
            future.set_exception(error)
        _task._OWN.update(own)
        return future


@pytest.mark.slow
@pytest.mark.precision("float32")
def test_workers_are_sent_a_job_once(tmp_path, monkeypatch):
    taken, take = [], _task._taken
    monkeypatch.setattr(_task, "_taken", lambda *a: taken.append(a) or take(*a))
    net, x = nn.Sequential([nn.Elementwise(lambda x: x**2), nn.Linear(1)]), jnp.eye(5)
    net = nn.Sequential([nn.Linear(8), net])
    mesh = lambda: line()
    found = eqt.gram(
        *(net, x),
        store=tmp_path / "a",
        tile=2,
        executor=Elsewhere(),
        mesh=mesh,
    )
    assert_same(found[:], eqt.ntk(net, x))
    assert len(taken) == 1
    assert not (tmp_path / "a/_jobs").exists()


@pytest.mark.precision("float32")
def test_workers_take_nothing_else(tmp_path, monkeypatch):
    x, store = inputs("tanh", 4), tmp_path / "a"
    run = functools.partial(eqt.gram, laplace, x, store=store, tile=2)

    def change():
        for job in zarr.open_group(store / "_jobs").array_values():
            job[5] += 1

    with pytest.raises(RuntimeError, match="is not what this run has put there"):
        run(executor=Elsewhere(change))
    with monkeypatch.context() as patch:
        change = lambda: patch.setattr(_task, "versions", lambda: {"jax": "0.1"})
        with pytest.raises(RuntimeError, match=r"This worker has .*'0\.1'.* but the"):
            run(executor=Elsewhere(change))
    with pytest.raises(TypeError, match="`mesh` is one of devices of this process"):
        run(executor=Elsewhere(), mesh=line())
    with monkeypatch.context() as patch:
        patch.setattr(_task, "_FORKED", {os.getpid()})
        with pytest.raises(RuntimeError, match="This worker is a fork of a process"):
            run(executor=Elsewhere())
    lock = threading.Lock()
    locked = lambda a, b: laplace(a, b) if lock else a
    monkeypatch.setattr(_manifest, "facts", lambda place, value: {})
    with pytest.raises(TypeError, match="cannot be sent to the workers"):
        eqt.gram(locked, x, store=tmp_path / "b", executor=Elsewhere())


@pytest.mark.precision("float32")
def test_workers_must_reach_the_store(tmp_path):
    x = inputs("tanh", 4)

    class Apart(Elsewhere):
        """Workers that have another place by the same name."""

        def submit(self, function, location, *rest):
            if self.before() == "nothing":
                return super().submit(function, f"{location}-theirs", *rest)
            shutil.copytree(location, f"{location}-theirs", dirs_exist_ok=True)
            return super().submit(function, f"{location}-theirs", *rest)

    for has, match in (
        ("nothing", "This worker does not find what it is to compute in"),
        ("a copy", r"A worker says .* tile \(0, 0\), which is not in"),
    ):
        with pytest.raises(RuntimeError, match=f"{match}.*All workers must reach"):
            eqt.gram(
                laplace,
                x,
                store=tmp_path / has,
                tile=2,
                executor=Apart(lambda h=has: h),
            )


def shut_down(pool):
    pool.shutdown()
    return pool


@pytest.mark.parametrize(
    "kind",
    [concurrent.futures.ThreadPoolExecutor, concurrent.futures.ProcessPoolExecutor],
)
@pytest.mark.precision("float32")
def test_executors_that_were_shut_down(kind, tmp_path):
    run = functools.partial(
        eqt.gram, laplace, inputs("tanh", 4), store=tmp_path / "a", tile=2
    )
    with pytest.raises(RuntimeError, match=r"broken \(.*0 of 3 tiles.*a new executor"):
        run(executor=shut_down(kind(1)))
    assert_same(run()[:], laplace(inputs("tanh", 4), inputs("tanh", 4)))


@pytest.mark.precision("float32")
def test_any_engine_goes_on_with_another_ones_tiles(tmp_path, monkeypatch):
    monkeypatch.setattr(_run, "IN_FLIGHT", 1)
    x, tiles = inputs("tanh", 8), count_computed(monkeypatch)
    engines = [None, Elsewhere(), concurrent.futures.ThreadPoolExecutor(1)]

    def interrupt(progress):
        if progress.done - progress.kept >= 4:
            raise KeyboardInterrupt

    for i, order in enumerate(itertools.permutations(engines)):
        tiles.clear()
        run = functools.partial(eqt.gram, laplace, x, store=tmp_path / str(i), tile=2)
        for engine in order[:2]:
            with pytest.raises(KeyboardInterrupt):
                run(executor=engine, progress=interrupt)
        mesh = lambda: line()
        found = run(executor=order[2], mesh=mesh)
        assert_same(found[:], laplace(x, x))
        assert sorted(tiles) == sorted(set(tiles))
        assert len(tiles) == 10
    engines[2].shutdown()


@pytest.mark.precision("float32")
def test_few_tasks_wait_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(_run, "IN_FLIGHT", 3)
    waiting, most = set(), []

    class Counted(concurrent.futures.ThreadPoolExecutor):
        def submit(self, *call):
            future = super().submit(*call)
            waiting.add(future)
            most.append(sum(not f.done() for f in waiting))
            return future

    with Counted(2) as pool:
        eqt.gram(
            laplace, inputs("tanh", 9), store=tmp_path / "a", tile=2, executor=pool
        )
    assert len(most) == 15
    assert max(most) <= 3
