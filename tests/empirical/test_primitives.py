"""Rules are keyed by primitives, each is used, and users can add their own."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from jax.extend import core

import eqtangents as eqt
from empirical_zoo import ZOO
from eqtangents import _series
from eqtangents._jaxpr import traced
from eqtangents.empirical import structured
from eqtangents.empirical._analyse import analyse
from eqtangents.empirical._batches import example_of
from eqtangents.empirical._network import Network
from eqtangents.empirical._primitives import STRUCTURE_RULES, UNAPPLIED_RULES
from eqtangents.empirical._rows import jacobian_rows
from precision import by_precision


# Rules act on equations and shapes: they are the same in each precision.
pytestmark = pytest.mark.precision("float64")

# For the rule of each primitive, a function that reaches it.
CASES = {
    "transpose": "transposed",
    "reshape": "reshaped",
    "squeeze": "squeezed",
    "reduce_sum": "summed",
    "neg": "neg",
    "copy": "copied",
    "convert_element_type": "converted",
    "add": "two_added",
    "add_any": "gradient_summed",
    "sub": "two_subtracted",
    "mul": "scaled",
    "div": "divided",
}
UNAPPLIED_CASES = {
    "broadcast_in_dim": "broadcast_first",
    "slice": "sliced",
    "split": "split",
    "dynamic_slice": "dynamic_slice",
    "gather": "embedding",
    "concatenate": "concatenated",
    "rev": "reversed",
    "cumsum": "cumsum",
    "pad": "padded",
    "select_n": "selected",
    "mul": "elementwise",
    "div": "divided_each",
    "dot_general": "matvec",
    "conv_general_dilated": "conv",
}
TABLES = {
    "RULES": (STRUCTURE_RULES, CASES),
    "UNAPPLIED_RULES": (UNAPPLIED_RULES, UNAPPLIED_CASES),
}
EVERY = [(table, name) for table, (_, cases) in TABLES.items() for name in cases]


def recipe_of(call, params, x):
    """The structure of all parameters, whether that is cheap or not."""
    network, example = Network(call, params), example_of(x)
    program = traced(network, network.leaves, example)
    return analyse(program, network.leaves, example, frozenset())


def test_keys_are_primitives():
    for table in (STRUCTURE_RULES, UNAPPLIED_RULES, _series._SERIES_RULES):
        assert table
        assert all(isinstance(primitive, core.Primitive) for primitive in table)


@pytest.mark.parametrize("table", TABLES)
def test_every_rule_has_a_case(table):
    rules, cases = TABLES[table]
    ours = {p.name for p, rule in rules.items() if "eqtangents" in rule.__module__}
    assert ours == set(cases)


@pytest.mark.parametrize(("table", "name"), EVERY)
@pytest.mark.quick(4)
def test_every_rule_is_used(table, name, monkeypatch, getkey):
    rules, cases = TABLES[table]
    ((primitive, rule),) = [(p, r) for p, r in rules.items() if p.name == name]
    answers = []

    def recorded(eqn, args):
        answers.append(rule(eqn, args))
        return answers[-1]

    monkeypatch.setitem(rules, primitive, recorded)
    function = ZOO[cases[name]]
    recipe_of(function.call, *function.draw(getkey(), 2))
    assert any(answer is not None for answer in answers)


def test_a_network_is_analysed_once(getkey):
    calls = []

    def call(w, x):
        calls.append(x)
        return lax.scan(lambda c, v: (jnp.tanh(v @ c), None), x, w)[0]

    w, x = jr.normal(getkey(), (2, 3, 3)), jr.normal(getkey(), (4, 3))
    network = Network(call, w)
    recipe = recipe_of(call, w, x)
    assert len(calls) == 1
    seeds = jnp.eye(3).reshape(1, 1, 3, 3)
    one = jacobian_rows(recipe, network.leaves, x[0], 0, seeds)
    other = jacobian_rows(recipe, network.leaves, x[1], 0, seeds)
    assert len(calls) == 1  # rows only evaluate the recipe's program
    assert [c.shape for c in one.cotangents] == [(1, 1, 3, 2, 3)]
    assert not np.allclose(one.cotangents[0], other.cotangents[0])
    arrays = [f.array for use in recipe.uses for f in use.part.factors]
    # Arrays of the trace have left it as shapes.
    assert not any(isinstance(array, jax.Array) for array in arrays)


@pytest.fixture
def rule_of_tan(monkeypatch):
    """Take back what a test registers for a primitive."""
    monkeypatch.setitem(STRUCTURE_RULES, lax.tan_p, lambda eqn, args: None)


def test_a_users_rule_is_followed(rule_of_tan, getkey):
    call = lambda w, x: jnp.tan(w) @ x
    w, x = jr.normal(getkey(), (4, 3)), jr.normal(getkey(), (2, 3))
    before = recipe_of(call, w, x)

    @structured(lax.tan_p)
    def tangent(eqn, args):
        (view,) = args
        return [view.mapped(lambda part: part.times(3.0))]

    after = recipe_of(call, w, x)
    # With a rule, the tap is behind the product with data.
    assert [tap.shape for tap in before.taps] == [(4, 3)]
    assert [tap.shape for tap in after.taps] == [(4,)]


def test_a_rule_that_mislabels_is_named(rule_of_tan, getkey):
    @structured(lax.tan_p)
    def mislabelled(eqn, args):
        (view,) = args
        return [view.mapped(lambda part: part.relabelled(part.labels[1:]))]

    w, x = jr.normal(getkey(), (4, 3)), jr.normal(getkey(), (2, 3))
    with pytest.raises(ValueError, match=r"`tan` labels .* shape \(3,\)"):
        recipe_of(lambda w, x: jnp.tan(w) @ x, w, x)


def window_sum(eqn, args):
    """Sums over windows, as a matrix along each axis."""
    (view,) = args
    params = eqn.params

    def summed(part):
        for axis, size in enumerate(view.shape):
            low, high = params["padding"][axis]
            window = params["window_dimensions"][axis]
            stride = params["window_strides"][axis]
            starts = np.arange(0, low + size + high - window + 1, stride) - low
            offsets = np.arange(size) - starts[:, None]
            rows = (offsets >= 0) & (offsets < window)
            part = part.along(axis, rows.astype(float))
        return part

    return [view.mapped(summed)]


def test_kernel_by_a_users_rule_is_that_by_jacobians(monkeypatch, getkey):
    monkeypatch.setitem(UNAPPLIED_RULES, lax.reduce_window_sum_p, window_sum)

    def smoothed(w, x):
        w = lax.reduce_window(w, 0.0, lax.add, (1, 3), (1, 2), "SAME")
        return jnp.tanh(w @ x)

    w, x = jr.normal(getkey(), (32, 64)), jr.normal(getkey(), (4, 32))
    found, truth = (
        eqt.empirical_ntk(smoothed, x, None, w, trace_axes=(), implementation=way)
        for way in ("structured", "jacobian")
    )
    explained = eqt.explain_empirical_ntk(
        smoothed, x, None, w, trace_axes=(), implementation="structured"
    )
    assert explained.choice.recipe.dense == frozenset()
    np.testing.assert_allclose(
        found, truth, rtol=by_precision(float64=1e-9, float32=1e-4)
    )
