"""The tests themselves: in both precisions, and no test vanishes."""

import ast
import pathlib

import jax.numpy as jnp
import pytest

import conftest
from precision import DTYPE, by_precision, is_double


TESTS = pathlib.Path(__file__).parent

# What depends on the precision in which it is called: arrays, and layers of functions
# without closed form, which are expanded as far as the precision allows.
ARRAYS = {"jnp", "jax.numpy"}
RANDOM_ARRAYS = {f"jr.{name}" for name in ("normal", "uniform", "bernoulli")}
EXPANDED = {"Elementwise", "Elu", "Selu", "Sigmoid", "Silu", "Softplus", "Tanh"}
OF_THE_PRECISION = {"is_double", "by_precision"}
# One sets the precision, one is read by type checkers alone, and one reads files.
NOT_IMPORTED = {"conftest.py", "typed_user.py", "load.py"}


def at_import(node):
    """The nodes that are evaluated when their file is imported."""
    inside = ()
    if isinstance(node, ast.Lambda | ast.FunctionDef | ast.AsyncFunctionDef):
        inside = [node.body] if isinstance(node, ast.Lambda) else node.body
    yield node
    for child in ast.iter_child_nodes(node):
        if child not in inside:
            yield from at_import(child)


def decided_at_import(source):
    """Lines of a test file that depend on the precision before there is one."""
    found = []
    for node in at_import(ast.parse(source)):
        text = ast.unparse(node) if isinstance(node, ast.Call | ast.Attribute) else ""
        if isinstance(node, ast.Call):
            path, _, name = ast.unparse(node.func).rpartition(".")
            known = path in ARRAYS or f"{path}.{name}" in RANDOM_ARRAYS
            asked = name == "read" and "enable_x64" in text
            if known or asked or name in EXPANDED | OF_THE_PRECISION:
                found.append(f"{node.lineno}: {text}")
        elif text.endswith("jax_enable_x64"):
            found.append(f"{node.lineno}: {text}")
    return found


@pytest.mark.precision("float32")
@pytest.mark.parametrize(
    "path",
    [p for p in TESTS.rglob("*.py") if p.name not in NOT_IMPORTED],
    ids=lambda p: p.name,
)
def test_nothing_depends_on_the_precision_at_import(path):
    assert decided_at_import(path.read_text()) == []


@pytest.mark.precision("float32")
@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("X = jnp.ones(3)", 1),
        ("X = {'a': nn.Sequential([nn.Linear(2), nn.Tanh()])}", 1),
        ("DOUBLE = jax.config.jax_enable_x64", 1),
        ("X64 = jax.config.read('jax_enable_x64')", 1),
        ("RTOL = 1e-9 if is_double() else 1e-4", 1),
        ("def f(rtol=by_precision(float64=1e-9, float32=1e-4)): pass", 1),
        ("@pytest.mark.parametrize('x', [jr.normal(KEY, (2,))])\ndef test(x): pass", 1),
        ("class C:\n    x = jnp.zeros(2)", 1),
        ("X = lambda: jnp.ones(3)", 0),
        ("def f():\n    return jnp.ones(3), is_double()", 0),
        ("NET = nn.Sequential([nn.Relu()])\nF = jnp.tanh\nK = jr.key(0)", 0),
    ],
)
def test_dependence_on_the_precision_is_seen(source, count):
    assert len(decided_at_import(source)) == count


def test_precision_is_that_of_the_name(precision):
    assert jnp.zeros(()).dtype == jnp.asarray(1, DTYPE).dtype == precision
    assert is_double() == (precision == "float64")
    assert by_precision(float64="float64", float32="float32") == precision


class Report:
    def __init__(self, longrepr=None, **fields):
        self.longrepr = longrepr
        vars(self).update(fields)


@pytest.mark.precision("float32")
@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (Report(("test_x.py", 3, "Skipped: no device")), "no device"),
        (Report(("test_x.py", 3, "Skipped: ")), ""),
        (Report(("test_x.py", 3, "Skipped: unconditional skip")), ""),
        (Report(wasxfail="a bug of JAX"), "a bug of JAX"),
        (Report(wasxfail="reason: "), ""),
        (Report(wasxfail=""), ""),
    ],
)
def test_a_skip_without_a_reason_is_seen(report, reason):
    assert conftest.skip_reason(report) == reason
