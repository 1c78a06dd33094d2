"""Engines that `docs/stores.md` has recipes for: its code, word for word.

A kernel kills the worker that has its fifth tile. Ray has another worker compute that
one, and MPI ends all of them, so that the same call has to go on.
"""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import eqtangents as eqt


pytest.importorskip("zarr")
pytestmark = [pytest.mark.slow, pytest.mark.precision("float32")]

PAGE = pathlib.Path(__file__).parents[1] / "docs/stores.md"
MPIEXEC = [str(pathlib.Path(sys.executable).parent / "mpiexec"), "-n", "3"]
TILES = 21
# What the page has before: a kernel, and examples.
BEFORE = """
import numpy as np
import eqtangents as eqt
from test_store_engines import kernel_that

net = kernel_that("die", {begun!r})
x = np.random.RandomState(0).normal(size=(12, 5)).astype(np.float32)
"""


def needs(package):
    found = importlib.util.find_spec(package)
    reason = f"{package} is not installed: `nox -s libraries` tests it"
    return pytest.mark.skipif(found is None, reason=reason)


def recipe(engine):
    """The code below a heading of the page."""
    (section,) = re.findall(
        rf"^### {engine}\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.M | re.S
    )
    (code,) = re.findall(r"^```py\n(.*?)^```", section, re.M | re.S)
    return code


def run(engine, folder, *launcher):
    """What a script that consists of a recipe returned, and said."""
    (folder / "begun").mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(BEFORE.format(begun=str(folder / "begun")) + recipe(engine))
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [*launcher, script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def begun(folder):
    return len(list((folder / "begun").iterdir()))


def stored(folder):
    return len(list((folder / "ntk.zarr/matrix/c").glob("*/*")))


def assert_complete(folder):
    x = np.random.RandomState(0).normal(size=(12, 5)).astype(np.float32)
    found = eqt.StoredGram(folder / "ntk.zarr")[:]
    np.testing.assert_allclose(found, x @ x.T, rtol=1e-5, atol=1e-5)
    left = sorted(path.name for path in (folder / "ntk.zarr").iterdir())
    assert left == ["matrix", "zarr.json"]


@needs("ray")
def test_ray(tmp_path):
    code, said = run("Ray", tmp_path, sys.executable)
    assert code == 0, said
    assert_complete(tmp_path)
    # What is finished is found in the store.
    assert TILES < begun(tmp_path) <= TILES + 2


@needs("mpi4py")
def test_mpi(tmp_path):
    launcher = *MPIEXEC, sys.executable, "-m", "mpi4py.futures"
    code, said = run("MPI", tmp_path, *launcher)
    assert code != 0, said
    kept = stored(tmp_path)
    assert 3 <= kept < TILES
    code, said = run("MPI", tmp_path, *launcher)
    assert code == 0, said
    assert_complete(tmp_path)
    # Of two workers, each may have lost the tile that it had.
    assert TILES < begun(tmp_path) <= TILES + 2


def test_processes(tmp_path):
    code, said = run("Processes of one machine", tmp_path, sys.executable)
    assert code == 1
    assert re.search(r"is broken .*of 21 tiles are in .*new executor", said), said
    assert stored(tmp_path) >= 3
    code, said = run("Processes of one machine", tmp_path, sys.executable)
    assert code == 0, said
    assert_complete(tmp_path)
    assert TILES < begun(tmp_path) <= TILES + 2
