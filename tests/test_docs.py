"""The pages name every layer and every public name, and their code runs."""

import ast
import builtins
import importlib
import inspect
import pathlib
import re
import textwrap
import tomllib

import pytest

from eqtangents import nn


pytestmark = pytest.mark.precision("float32")  # the default, which pages are about


ROOT = pathlib.Path(__file__).parents[1]
LAYERS = ROOT / "docs" / "layers.md"
PACKAGES = [
    "",
    ".nn",
    ".predict",
    ".mean_field",
    ".theory",
    ".solvers",
    ".duals",
    ".covariance",
    ".testing",
    ".empirical",
    ".estimators",
    ".tinygp",
]


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


def without_a_page(packages, pages):
    """Public names of packages that no page of the API shows."""
    shown = set(re.findall(r"^::: (\S+)", pages, re.M))
    places = {}  # one thing may be exported twice, and needs one page
    for package in packages:
        for name, value in vars(package).items():
            if not (name.startswith("_") or inspect.ismodule(value)):
                place = f"{package.__name__}.{name}"
                places.setdefault(id(value), []).append(place)
    return sorted(names[0] for names in places.values() if not shown & set(names))


def test_every_public_name_has_its_page():
    packages = [importlib.import_module(f"eqtangents{name}") for name in PACKAGES]
    pages = "\n".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    assert without_a_page(packages, pages) == []
    assert without_a_page([nn], pages.replace("nn.Relu\n", "nn.Rely\n")) == [
        "eqtangents.nn.Relu"
    ]


def test_citation_has_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
def test_code_of_the_readme_runs():
    """The code of all other pages runs while the site is built."""
    path = ROOT / "README.md"
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, str(path), "exec"), names)


def undefined(code):
    """Names that code uses, and neither binds nor imports."""
    bound, used = set(dir(builtins)), set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(name, ast.Load()):
                used.add(name)
            case ast.Name(name) | ast.arg(name):
                bound.add(name)
            case ast.FunctionDef(name) | ast.ClassDef(name):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.alias(name, other):
                bound.add(other or name.partition(".")[0])
    return sorted(used - bound)


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "docs").rglob("*.md")),
    ids=lambda path: path.relative_to(ROOT / "docs").as_posix(),
)
def test_pages_define_what_they_use(path):
    """A build of the site runs their code, and takes an hour to say so."""
    blocks = re.findall(r"^( *)```python\n(.*?)^\1```", path.read_text(), re.M | re.S)
    code = "\n".join(textwrap.dedent(block) for _, block in blocks)
    assert undefined(code) == []


def test_an_undefined_name_is_seen():
    assert undefined("import a.b as c, e.f\na.d(b, c, e, *[x for x in c])") == [
        "a",
        "b",
    ]
