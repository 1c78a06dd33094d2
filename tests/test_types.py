"""What type checkers say of a script: the right types, all mistakes and no others."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest


pytestmark = pytest.mark.precision("float32")

HERE = pathlib.Path(__file__).parent
SOURCE = HERE.parent / "src"
SCRIPT = HERE / "typed_user.py"
REVEALED = r"^reveal_type\(.*\)  # (.+)$"
MISTAKE = r"  # mistake: (\w+)$"

# Names of types that refer to themselves, which checkers write out up to some depth.
TREE = r"Array \| tuple\[.+\] \| list\[.+\] \| dict\[.+\]"
MATRICES = r"Array \| tuple\[.+, \.\.\.\]"


def told(pattern):
    """What the comments say, by line."""
    lines = enumerate(SCRIPT.read_text().splitlines(), 1)
    return {n: m[1] for n, line in lines if (m := re.search(pattern, line))}


def named(kind):
    """A type as the comments write it: without modules, by the name of an alias."""
    kind = re.sub(r"\b(\w+\.)+(?=\w)", "", kind)
    kind = re.sub(f"^{TREE}$", "Tree[Array]", kind)
    return re.sub(f"^{MATRICES}$", "Matrices", kind)


def pyright(mode, path):
    """Types by line, and rules that are broken by line."""
    config = {
        "include": [SCRIPT.name],
        "typeCheckingMode": mode,
        "extraPaths": [str(SOURCE)],
    }
    (path / "pyrightconfig.json").write_text(json.dumps(config))
    shutil.copy(SCRIPT, path)
    command = [sys.executable, "-m", "pyright", "--outputjson", "-p", str(path)]
    command += ["--pythonpath", sys.executable]
    out = subprocess.run(command, capture_output=True, text=True)
    kinds, errors = {}, {}
    for found in json.loads(out.stdout)["generalDiagnostics"]:
        line = found["range"]["start"]["line"] + 1
        if found["severity"] == "information":
            kinds[line] = named(re.search(r'is "(.*)"$', found["message"])[1])
        else:
            errors.setdefault(line, set()).add(found.get("rule"))
    return kinds, errors


def mypy(path):
    """Types by line, and lines with errors."""
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(path), str(SCRIPT)]
    command += ["--config-file=", "--follow-imports=silent"]
    environment = {**os.environ, "MYPYPATH": str(SOURCE)}
    out = subprocess.run(command, capture_output=True, text=True, env=environment)
    line = rf"{SCRIPT.name}:(\d+): "
    kinds = re.findall(line + 'note: Revealed type is "(.*)"', out.stdout)
    errors = re.findall(line + "error", out.stdout)
    return {int(n): named(kind) for n, kind in kinds}, {int(n) for n in errors}


def test_the_script_has_types_and_mistakes():
    assert len(told(REVEALED)) > 50
    assert len(told(MISTAKE)) > 15
    lines = SCRIPT.read_text().splitlines()
    assert sum(line.startswith("reveal_type(") for line in lines) == len(told(REVEALED))
    unknown = re.compile(r"\b(Any|Unknown)\b")
    assert not any(map(unknown.search, told(REVEALED).values()))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["standard", "strict"])
def test_pyright_sees_types_and_mistakes(mode, tmp_path):
    kinds, errors = pyright(mode, tmp_path)
    assert kinds == told(REVEALED)
    mistakes = told(MISTAKE)
    assert errors.keys() == mistakes.keys(), errors
    assert all(mistakes[line] in rules for line, rules in errors.items()), errors


@pytest.mark.slow
def test_mypy_sees_types_and_mistakes(tmp_path):
    kinds, errors = mypy(tmp_path)
    assert kinds == told(REVEALED)
    assert errors == told(MISTAKE).keys()
