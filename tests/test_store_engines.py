"""Stores filled by workers: killed ones cost the tile that they had, nothing else."""

import concurrent.futures
import functools
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqtangents as eqt
import store_kills
from eqtangents import nn
from mesh_cases import assert_same, connected, inputs
from precision import DTYPE


pytest.importorskip("zarr")
pytestmark = pytest.mark.slow

# Workers are processes of their own, which have what this one imports.
PATHS = os.pathsep.join(path for path in sys.path if path)


@pytest.fixture(autouse=True)
def _paths(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PATHS)


def processes(count):
    spawn = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(count, mp_context=spawn)


def kernel_that(does, by):
    """A kernel whose second tile on one row kills its worker, or fails, once each time.

    It is sent to workers by value, as it is defined here.
    """

    def act(a):
        path = pathlib.Path(by)
        count = len(list(path.iterdir()))
        (path / f"{os.getpid()}-{time.time_ns()}").touch()
        if count == 4:
            if does == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("on purpose")
        return a

    def kernel(a, b):
        a = jax.pure_callback(act, jax.ShapeDtypeStruct(a.shape, a.dtype), a)
        return a @ b.T

    return kernel


def begun(by):
    return len(list(pathlib.Path(by).iterdir()))


@pytest.mark.precision("float32")
def test_a_broken_pool_is_resumed(tmp_path):
    x = inputs("tanh", 12)
    by = tmp_path / "begun"
    by.mkdir()
    run = functools.partial(
        eqt.gram, kernel_that("die", str(by)), x, store=tmp_path / "a", tile=2
    )
    with processes(2) as pool:
        with pytest.raises(RuntimeError, match=r"is broken .*of 21 tiles are in .*new"):
            run(executor=pool)
    assert begun(by) >= 5
    reports = []
    with processes(2) as pool:
        found = run(executor=pool, progress=reports.append)
    assert_same(found[:], x @ x.T)
    assert reports[-1].done == 78
    assert reports[-1].kept >= 3 * 4
    # Those that the killed workers had are begun again, and no other one.
    assert begun(by) <= 21 + 2
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "matrix",
        "zarr.json",
    ]


def test_processes_have_the_settings_of_the_first(tmp_path, precision):
    square = nn.Sequential([nn.Linear(8), nn.Elementwise(lambda x: x**2), nn.Linear(1)])
    x = inputs("tanh", 9)
    mesh = lambda: jax.make_mesh((jax.device_count(),), ("rows",))
    with processes(1) as pool:
        found = eqt.gram(
            square, x, kind="both", store=tmp_path / "a", executor=pool, mesh=mesh
        )
    assert found.ntk.dtype == jnp.result_type(DTYPE)
    assert_same(jax.tree.map(np.asarray, found), eqt.kernel(square, x))


@pytest.mark.precision("float32")
def test_threads(tmp_path):
    x = inputs("tanh", 9)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        found = eqt.gram(connected(), x, store=tmp_path / "a", executor=pool, tile=2)
    assert_same(found[:], eqt.ntk(connected(), x))
    assert not (tmp_path / "a/_jobs").exists()


@pytest.mark.parametrize("does", ["die", "fail"])
@pytest.mark.precision("float32")
def test_dask_tries_again(does, tmp_path):
    distributed = pytest.importorskip("distributed")
    x = inputs("tanh", 12)
    by = tmp_path / "begun"
    by.mkdir()
    local = functools.partial(
        distributed.LocalCluster,
        n_workers=2,
        threads_per_worker=1,
        dashboard_address=None,
    )
    with local() as cluster, distributed.Client(cluster) as client:
        kernel = kernel_that(does, str(by))
        found = eqt.gram(kernel, x, store=tmp_path / "a", tile=2, executor=client)
        assert_same(found[:], x @ x.T)
    # A finished tile is looked for before it is computed again.
    assert 22 <= begun(by) <= 24


@pytest.mark.precision("float32")
def test_killed_again_and_again(tmp_path):
    script = pathlib.Path(store_kills.__file__)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path, "50"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["kills"] == 50
    assert found["within"] > 0
    assert found["changed"] == []
    assert 0 < found["before"] < found["tiles"] == 820
    folders = [tmp_path / name / "matrix/c" for name in ("killed", "undisturbed")]
    names, others = ({p.relative_to(f) for p in f.rglob("*")} for f in folders)
    assert names == others
    for name in names:
        one, other = (folder / name for folder in folders)
        assert one.is_dir() or one.read_bytes() == other.read_bytes()
