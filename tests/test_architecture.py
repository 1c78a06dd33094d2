"""The architecture, held by tests. Each checker lists what breaks its rule, so that it
can itself be tried on a package that breaks it."""

import ast
import collections
import dataclasses
import importlib
import importlib.util
import inspect
import pathlib
import pkgutil
import re
import sys
import textwrap
import typing

import equinox as eqx
import pytest


pytestmark = pytest.mark.precision("float32")

ROOT = pathlib.Path(__file__).parents[1] / "src" / "eqtangents"

# Each part of the package (a module `name.py` or `_name.py`, or a folder), and the
# parts right below it. Imports point down, to any depth.
BELOW = {
    "types": [],
    "products": [],
    "extras": [],
    "arguments": ["types"],
    "budget": ["types"],
    "transposed": [],
    "buffers": ["budget", "transposed", "trees"],
    "at_once": [],
    "closures": ["types"],
    "duals": ["arguments", "at_once", "buffers", "closures", "other_names", "products"],
    "covariance": ["duals"],
    "signatures": ["arguments"],
    "other_names": [],
    "nn": ["signatures", "covariance"],
    "equinox": ["nn"],
    "traced": ["equinox", "jaxpr", "kernel_habits", "trees"],
    "trees": [],
    "kernel_pair": [],
    "networks": ["nn"],
    "kernel_habits": ["signatures"],
    "batches": ["kernel_habits", "networks", "trees"],
    "tile_plan": ["nn"],
    "tiles": ["tile_plan", "trees"],
    "rated": ["networks", "parameters"],
    "programs": ["duals"],
    "kernel": ["batches", "tiles", "kernel_pair", "rated", "programs"],
    "ntk_by_leaf": ["kernel"],
    "gram": ["kernel", "extras"],
    "refuse": [],
    "solvers": ["gram", "empirical", "refuse"],
    "predict": ["solvers"],
    "roots": ["trees"],
    "mean_field": ["predict", "roots"],
    "theory": ["predict", "roots"],
    "estimators": ["predict"],
    "covariance_function": ["kernel"],
    "tinygp": ["covariance_function", "extras"],
    "gpjax": ["covariance_function", "extras"],
    "jaxpr": [],
    "series": ["jaxpr"],
    "parameters": ["nn", "trees", "kernel_habits"],
    "hidden": [],
    "linearization": ["series", "parameters", "hidden"],
    "empirical": ["jaxpr", "gram"],
    "sampling": ["empirical", "nn"],
    "monte_carlo": ["sampling"],
    "testing": ["monte_carlo", "predict"],
}
# Names that mean different things in different files, and why each may: a layer and its
# entry in a table, say. In lower case, without underscores.
SHARED_NAMES: dict[str, str] = {
    "networkkernel": "a kernel of each library, in a module of its name",
    "kernel": "a function, and what it returns: names that users know",
    "ntk": "a function, and the parameterisation that is called like its kernel",
}
# Files, and functions as `file.py:name`, that may be longer than others, and why.
LONG: dict[str, str] = {}
# Parts for a library that not every JAX runs: `nox -s libraries` looks into them.
OF_A_LIBRARY = ["gpjax"]
# Types that public classes hold, and that their users need not look into.
OPAQUE = {
    "Recipe": "how a network was analysed; a `Candidate` holds it",
    "Registry": "what a rule has registered; a `Frame` holds it",
}
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 300, 40
CATCH_ALL = {"utils", "util", "misc", "common", "helpers"}
PRIVATE_JAX = {"_src", "core", "interpreters"}


def _sources(root):
    """Path, place in the package, and syntax tree of each module."""
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).with_suffix("").parts
        yield path.relative_to(root.parent), place, ast.parse(path.read_text())


def _imports(node, package):
    """Absolute dotted names that an import statement in `package` brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = list(package[: len(package) + 1 - node.level]) if node.level else []
        base += node.module.split(".") if node.module else []
        return [".".join([*base, alias.name]) for alias in node.names]
    return []


def _part(name):
    return name.removeprefix("_")


def _all_below(part):
    return {part}.union(*(_all_below(lower) for lower in BELOW[part]))


def upward_imports(root):
    """Imports of a part that is not below, and of the package as a whole."""
    found = []
    for path, place, tree in _sources(root):
        if place == ("__init__",):
            continue
        part = _part(place[0])
        if part not in BELOW:
            found.append(f"{path}: `{part}` has no place in `BELOW`")
            continue
        package = (root.name, *place[:-1])
        for node in ast.walk(tree):
            for name in _imports(node, package):
                first, *rest = name.split(".")
                allowed = bool(rest) and _part(rest[0]) in _all_below(part)
                if first == root.name and not allowed:
                    found.append(f"{path}:{node.lineno}: imports `{name}`")
    return found


def local_imports(root):
    """Imports inside a function."""
    return [
        f"{path}:{node.lineno}: import in `{function.name}`"
        for path, _, tree in _sources(root)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def private_jax(root):
    """Uses of what JAX does not promise to keep."""
    found = []
    for path, place, tree in _sources(root):
        for node in ast.walk(tree):
            names = _imports(node, (root.name, *place[:-1]))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [ast.unparse(node)]
            for name in names:
                first, *rest = name.split(".")
                if first == "jax" and rest and rest[0] in PRIVATE_JAX:
                    found.append(f"{path}:{node.lineno}: `{name}`")
    return found


def catch_all_modules(root):
    """Modules named for nothing in particular."""
    return [
        str(path)
        for path, place, _ in _sources(root)
        if CATCH_ALL & {*map(_part, place)}
    ]


def shunned_syntax(root):
    """`super()`, `hasattr` and postponed annotations."""
    found = []
    for path, _, tree in _sources(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in {"super", "hasattr"}:
                    found.append(f"{path}:{node.lineno}: `{node.func.id}`")
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                found.append(f"{path}:{node.lineno}: `from __future__`")
    return found


def _top_level_names(tree):
    """Names that a module defines itself, rather than imports."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def homonyms(root):
    """Names that two files define, case and underscores apart: one word, one idea."""
    places = collections.defaultdict(lambda: collections.defaultdict(list))
    for path, place, tree in _sources(root):
        if place[-1] == "__init__":
            continue
        for name in _top_level_names(tree):
            word = name.replace("_", "").lower()
            places[word][path].append(name)
    return [
        f"{word}: "
        + ", ".join(
            f"`{'`, `'.join(names)}` in {path}" for path, names in files.items()
        )
        for word, files in sorted(places.items())
        if len(files) > 1 and word not in SHARED_NAMES
    ]


def too_long(root):
    """Files, and bodies of functions after their docstring, with too many lines."""
    found = []
    for path, _, tree in _sources(root):
        file = path.relative_to(root.name).as_posix()
        lines = len((root.parent / path).read_text().splitlines())
        found.append((file, lines, LINES_OF_A_FILE))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[bool(ast.get_docstring(node)) :]
                lines = node.end_lineno - body[0].lineno + 1 if body else 0
                found.append((f"{file}:{node.name}", lines, LINES_OF_A_FUNCTION))
    return [
        f"{place}: {lines} lines, of at most {most}"
        for place, lines, most in found
        if lines > most and place not in LONG
    ]


def _import_all(root):
    """Every module of the package whose library is installed, imported."""
    top = importlib.import_module(root.name)
    parts = list(pkgutil.iter_modules(top.__path__, f"{root.name}."))
    missing = {name for name in OF_A_LIBRARY if not importlib.util.find_spec(name)}
    modules = [top]
    for part in parts:
        if part.name.removeprefix(f"{root.name}.") in missing:
            continue
        modules.append(importlib.import_module(part.name))
        if part.ispkg:
            below = pkgutil.walk_packages(modules[-1].__path__, f"{part.name}.")
            modules += [importlib.import_module(module.name) for module in below]
    return modules


def _subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def neither_abstract_nor_final(root):
    """Modules in the sense of Equinox that are not one or the other."""
    _import_all(root)
    subclasses = dict.fromkeys(_subclasses(eqx.Module))
    ours = [c for c in subclasses if c.__module__.split(".")[0] == root.name]
    found = []
    for cls in ours:
        missing = cls.__abstractmethods__ | cls.__abstractvars__
        missing |= cls.__abstractclassvars__
        if cls.__name__.lstrip("_").startswith("Abstract") != bool(missing):
            lacks = ", ".join(sorted(missing)) or "nothing"
            found.append(f"{cls}: the name does not fit, {lacks} is abstract")
        for base in cls.__mro__[1:]:
            if base not in subclasses or base not in ours:
                continue
            if not (base.__abstractmethods__ | base.__abstractvars__):
                found.append(f"{cls} subclasses {base}, which is final")
            if overridden := _concrete(base) & set(vars(cls)):
                found.append(f"{cls} overrides {sorted(overridden)} of {base}")
            fields = _field_names(base)
            if fields and _field_names(cls) - fields:
                found.append(f"{cls} adds fields to those of {base}")
    return found


def _field_names(cls):
    """Fields of instances: `__dataclass_fields__` has class variables, too."""
    return {field.name for field in dataclasses.fields(cls)}


def _concrete(cls):
    """Methods and properties that `cls` implements."""
    own = {n for n, v in vars(cls).items() if callable(v) or hasattr(v, "__get__")}
    # `__check_init__` is not overridden: each class's own runs.
    free = {"__check_init__", "__hash__", "__eq__", "__repr__", *vars(_Bare)}
    return own - cls.__abstractmethods__ - free


class _Bare(eqx.Module):
    """What every module is given."""


def undocumented(root):
    """Public names of public packages that have no docstring of their own."""
    found = []
    for module in _import_all(root):
        public = not any(part.startswith("_") for part in module.__name__.split("."))
        if not public or not hasattr(module, "__path__"):
            continue
        if not module.__doc__:
            found.append(module.__name__)
        for name, value in vars(module).items():
            if name.startswith("_") or not (
                callable(value) or hasattr(value, "__file__")
            ):
                continue
            if name == "jaxtyping":  # imported into every module by its hook
                continue
            # A dataclass without a docstring is given its signature as one.
            doc = value.__doc__ or ""
            if not doc or doc.startswith(f"{name}("):
                found.append(f"{module.__name__}.{name}")
    return found


def _public(root):
    """Public packages, and the objects that they export by name."""
    for module in _import_all(root):
        hidden = any(part.startswith("_") for part in module.__name__.split("."))
        if not hidden and hasattr(module, "__path__"):
            names = {n: v for n, v in vars(module).items() if not n.startswith("_")}
            yield module, names


def _signatures(value):
    """A function, or the constructor and the public methods of a class.

    What a class implements of an abstract one is public as that one declares it.
    """
    if not inspect.isclass(value):
        return {"": value}
    declared = {n for c in value.__mro__[1:] for n in vars(c) if n != "__init__"}
    own = {n: getattr(m, "fget", None) or m for n, m in vars(value).items()}
    return {
        f".{name}": method
        for name, method in own.items()
        if inspect.isfunction(method)
        and name not in declared
        and (name == "__init__" or not name.startswith("_"))
    }


def _classes(annotation):
    """The classes in an annotation, to any depth."""
    if inspect.isclass(annotation):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _classes(part)


def hidden_types(root):
    """Types in public signatures, or under `**Returns:**`, that have no public name."""
    exported, every = {}, {}
    for module, names in _public(root):
        exported |= {f"{module.__name__}.{n}": v for n, v in names.items()}
    for module in _import_all(root):
        every |= {n: v for n, v in vars(module).items() if inspect.isclass(v)}
    of_package = lambda c: getattr(c, "__module__", "").split(".")[0] == root.name
    known = {id(value) for value in exported.values()}
    found = {}
    for name, value in exported.items():
        if not callable(value) or not of_package(value):
            continue
        for method, function in _signatures(value).items():
            kinds = [
                *_classes(tuple[*getattr(function, "__annotations__", {}).values()])
            ]
            returns = (inspect.getdoc(function) or "").partition("**Returns:**")[2]
            paragraph = returns.strip().partition("\n\n")[0]
            kinds += [every[w] for w in re.findall(r"`(\w+)`", paragraph) if w in every]
            for kind in kinds:
                hidden = id(kind) not in known and kind.__name__ not in OPAQUE
                if of_package(kind) and hidden:
                    found[f"{name}{method}: `{kind.__name__}`"] = None
    return list(found)


CHECKS = [
    upward_imports,
    local_imports,
    private_jax,
    catch_all_modules,
    shunned_syntax,
    neither_abstract_nor_final,
    undocumented,
    homonyms,
    too_long,
    hidden_types,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_holds(check):
    assert check(ROOT) == []


# Each checker, a source that breaks its rule, and how often it does.
BROKEN = [
    (upward_imports, "nn/_linear.py", "from ..kernel import ntk", 1),
    (upward_imports, "nn/_linear.py", "from .. import covariance, gram", 1),
    (upward_imports, "covariance/_rules.py", "import {name}.nn._linear", 1),
    (upward_imports, "covariance/_rules.py", "from {name} import nn", 1),
    (upward_imports, "covariance/_rules.py", "import {name} as eqt", 1),
    (upward_imports, "empirical/_ntk.py", "from ..monte_carlo import sample", 1),
    (upward_imports, "_types.py", "if True:\n    from .nn import Linear", 1),
    (upward_imports, "novel.py", "", 1),
    (upward_imports, "__init__.py", "from .gram import gram as gram", 0),
    (
        upward_imports,
        "gram/_tiles.py",
        "from . import _mesh\nfrom .._types import T",
        0,
    ),
    (upward_imports, "gram/deep/er.py", "from ...nn import Linear\nimport jax", 0),
    (local_imports, "kernel.py", "def f():\n    if f:\n        import jax", 1),
    (
        local_imports,
        "kernel.py",
        "class C:\n    def f(self):\n        from . import nn",
        1,
    ),
    (local_imports, "kernel.py", "try:\n    import rich\nexcept ImportError: pass", 0),
    (private_jax, "kernel.py", "from jax._src import api\nfrom jax import core", 2),
    (private_jax, "kernel.py", "import jax\nimport jax.interpreters.ad as ad", 1),
    (private_jax, "kernel.py", "import jax\nT = jax.core.Tracer", 1),
    (private_jax, "kernel.py", "import jax\nJ = jax.extend.core.Jaxpr", 0),
    (catch_all_modules, "nn/_utils.py", "", 1),
    (catch_all_modules, "common/__init__.py", "", 1),
    (shunned_syntax, "kernel.py", "hasattr(super(), 'f')", 2),
    (shunned_syntax, "kernel.py", "from __future__ import annotations", 1),
    (upward_imports, "duals/_relu.py", "from ..covariance import Affine", 1),
    (upward_imports, "duals/_relu.py", "from {name}.nn._layer import Signal", 1),
    (upward_imports, "duals/_relu.py", "from .._types import Axes", 0),
    (too_long, "kernel.py", "X = 0\n" * 300, 0),
    (too_long, "kernel.py", "X = 0\n" * 301, 1),
    (too_long, "kernel.py", "def f():\n" + "    x = 0\n" * 40, 0),
    (too_long, "kernel.py", "def f():\n" + "    x = 0\n" * 41, 1),
    (
        too_long,
        "kernel.py",
        "class A:\n  def f(self):\n    'F.'\n" + "    x = 0\n" * 41,
        1,
    ),
]


@pytest.mark.parametrize(("check", "path", "source", "count"), BROKEN)
def test_source_checkers_see(tmp_path, check, path, source, count):
    root = tmp_path / "fake"
    _write(root / path, source.format(name="fake"))
    assert len(check(root)) == count


# Two files, and how many names have two meanings.
WORDS = [
    ("def joined(): pass", "def _joined(): pass", 1),
    ("class Joined: pass", "JOINED = 1", 1),
    ("def end_to_end(): pass", "EndToEnd: int = 1\nclass A: pass", 1),
    ("def f(): pass\ndef _f(): pass", "def g(): pass", 0),
    ("def f():\n    x = 1", "x = 1", 0),
    ("from jax import jit", "def jit(): pass", 0),
    ("x[0] = y.z = 1", "z = x = 1", 0),
]


@pytest.mark.parametrize(("first", "second", "count"), WORDS)
def test_homonyms_are_seen(tmp_path, first, second, count):
    root = tmp_path / "fake"
    _write(root / "kernel.py", first)
    _write(root / "nn" / "_linear.py", second)
    _write(root / "nn" / "__init__.py", "joined = f = x = jit = z = 1")
    assert len(homonyms(root)) == count


@pytest.mark.slow
def test_exceptions_are_needed(monkeypatch):
    reasons = [*SHARED_NAMES.values(), *LONG.values()]
    assert all(reasons)
    names, places = SHARED_NAMES.keys(), LONG.keys()
    monkeypatch.setitem(globals(), "SHARED_NAMES", {})
    monkeypatch.setitem(globals(), "LONG", {})
    assert not names - {line.partition(":")[0] for line in homonyms(ROOT)}
    assert not places - {line.rpartition(": ")[0] for line in too_long(ROOT)}


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """An importable package with one module; called with its source."""
    root = tmp_path / f"fake_{abs(hash(request.node.name))}"
    monkeypatch.syspath_prepend(tmp_path)

    def write(source):
        _write(root / "nn" / "_layers.py", source)
        _write(root / "__init__.py", '"""Fake."""\nfrom . import nn as nn')
        _write(root / "nn" / "__init__.py", '"""Fake."""\nfrom ._layers import *')
        return root

    yield write
    for name in [n for n in sys.modules if n.split(".")[0] == root.name]:
        del sys.modules[name]


CLASSES = {
    "sound": (
        """
        class AbstractLayer(eqx.Module):
            size: eqx.AbstractVar[int]
            @abc.abstractmethod
            def __call__(self): "Apply."
            def twice(self): return 2 * self.size
        class AbstractElementwise(AbstractLayer):
            def __call__(self): return self.dual()
            @abc.abstractmethod
            def dual(self): "Dual."
        class Relu(AbstractElementwise):
            size: int
            def dual(self): return 0
        """,
        0,
    ),
    "final subclassed": ("class A(eqx.Module): pass\nclass B(A): pass", 1),
    "abstract by name only": ("class AbstractA(eqx.Module): pass", 1),
    "abstract but unnamed": (
        """
        class A(eqx.Module):
            @abc.abstractmethod
            def f(self): "F."
        """,
        1,
    ),
    "override": (
        """
        class AbstractA(eqx.Module):
            @abc.abstractmethod
            def f(self): "F."
            def g(self): return 1
            @property
            def h(self): return 1
        class B(AbstractA):
            def f(self): return 1
            def g(self): return 2
        class C(AbstractA):
            def f(self): return 1
            h: int = 2
        """,
        2,
    ),
    "fields in two classes": (
        """
        class AbstractA(eqx.Module):
            x: int
            @abc.abstractmethod
            def f(self): "F."
        class B(AbstractA):
            y: int
            def f(self): return 1
        """,
        1,
    ),
}


@pytest.mark.parametrize(("source", "count"), CLASSES.values(), ids=CLASSES.keys())
def test_class_checker_sees(package, source, count):
    header = "import abc\nimport equinox as eqx\n"
    root = package(header + textwrap.dedent(source))
    assert len(neither_abstract_nor_final(root)) == count


def test_docstring_checker_sees(package):
    root = package(
        textwrap.dedent(
            '''
            import equinox as _eqx

            class Documented(_eqx.Module):
                """A layer."""

            class Undocumented(_eqx.Module):
                x: int

            def documented():
                """A function."""

            def undocumented(): pass
            '''
        )
    )
    names = [f"{root.name}.nn.{name}" for name in ("Undocumented", "undocumented")]
    assert undocumented(root) == names


def test_hidden_types_are_seen(package):
    root = package(
        textwrap.dedent(
            """
            import abc as _abc

            class Public:
                def widened(self) -> "Public": ...

            class _Hidden: pass

            class AbstractLayer:
                @_abc.abstractmethod
                def apply(self, x: Public) -> _Hidden | None:
                    'Apply.'

            class Relu(AbstractLayer):
                def __init__(self, hidden: dict[str, _Hidden], x: int): ...
                def apply(self, x: Public) -> _Hidden: ...
                def _own(self) -> _Hidden: ...

            def documented(x: Public) -> tuple:
                'Two.\\n\\n**Returns:** a `Public` and a `_Hidden`.\\n\\nNot `_Other`.'
            """
        )
    )
    layers = f"{root.name}.nn"
    assert hidden_types(root) == [
        f"{layers}.AbstractLayer.apply: `_Hidden`",
        f"{layers}.Relu.__init__: `_Hidden`",
        f"{layers}.documented: `_Hidden`",
    ]


def _write(path, source):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
