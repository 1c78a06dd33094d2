"""The pages name every layer, and their code runs."""

import pathlib
import re

import pytest

from eqtangents import nn


pytestmark = pytest.mark.precision("float32")  # the default, which pages are about


ROOT = pathlib.Path(__file__).parents[1]
LAYERS = ROOT / "docs" / "layers.md"
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


def unnamed(page):
    """Names of `eqtangents.nn` that a page never sets as code."""
    public = [name for name in vars(nn) if not name.startswith("_")]
    code = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`", page))))
    return sorted(name for name in public if name not in code and name != "jaxtyping")


def test_every_layer_has_its_rule():
    assert unnamed(LAYERS.read_text()) == []


def test_a_missing_name_is_seen():
    page = LAYERS.read_text().replace("`Gabor`", "Gabor").replace("`Slice`", "a slice")
    assert unnamed(page) == ["Gabor", "Slice"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
@pytest.mark.slow
def test_code_runs(path):
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, str(path), "exec"), names)
