"""Results of functions of finite width have their true types, for type checkers."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest


HERE = pathlib.Path(__file__).parent
SCRIPT = HERE / "typed_finite.py"


def mistakes():
    """Lines that are wrong: those after the comment that says so."""
    lines = SCRIPT.read_text().splitlines()
    (start,) = (i for i, line in enumerate(lines) if "Mistakes" in line)
    return {i + 1 for i, line in enumerate(lines) if i > start and line}


def pyright(tmp_path):
    config = {
        "include": [SCRIPT.name],
        "typeCheckingMode": "strict",
        "extraPaths": [str(HERE.parent / "src")],
    }
    path = tmp_path / "pyrightconfig.json"
    path.write_text(json.dumps(config))
    shutil.copy(SCRIPT, tmp_path)
    command = ["-m", "pyright", "--outputjson", "-p", str(path)]
    command += ["--pythonpath", sys.executable]
    out = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    found = json.loads(out.stdout)["generalDiagnostics"]
    # `jnp.ones` is unknown in part, to no fault of ours.
    found = [d for d in found if 'Type of "ones"' not in d["message"]]
    return {d["range"]["start"]["line"] + 1 for d in found}


def mypy(tmp_path):
    command = ["-m", "mypy", "--cache-dir", str(tmp_path), str(SCRIPT)]
    source = {"MYPYPATH": str(HERE.parent / "src")}
    out = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=source
    )
    return {int(n) for n in re.findall(rf"{SCRIPT.name}:(\d+): error", out.stdout)}


@pytest.mark.parametrize("checker", [pyright, mypy])
def test_checkers_find_mistakes_and_nothing_else(checker, tmp_path):
    if (
        shutil.which(checker.__name__, path=str(pathlib.Path(sys.executable).parent))
        is None
    ):
        pytest.skip(f"{checker.__name__} is not installed")
    assert checker(tmp_path) == mistakes()
