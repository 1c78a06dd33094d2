"""What a loop over displacements looks up is built once, not for each of its uses.

XLA would compute it again in each operation that reads it, which no answer shows: the
operations of compiled programs are counted.
"""

import re
import sys

import jax
import jax.numpy as jnp
import pytest

import eqtangents as eqt
from eqtangents import nn
from work import times_computed


pytestmark = pytest.mark.precision("float32")


def look_ups(depth, n):
    """Slices that depend on the displacement, in a network with so many layers."""
    layers = [nn.Conv(1, (3, 3), padding="SAME"), nn.Relu()] * depth
    net = nn.Sequential([*layers, nn.GlobalAvgPool()])
    x = jax.ShapeDtypeStruct((n, 1, 16, 16), jnp.float32)
    program = jax.jit(lambda x1, x2: eqt.kernel(net, x1, x2).ntk)
    operations = re.findall(r" ([a-z-]+)\(", program.lower(x, x).compile().as_text())
    assert "while" in operations
    return operations.count("dynamic-slice")


def test_each_layer_is_looked_up_once():
    assert look_ups(depth=4, n=4) == look_ups(depth=2, n=4) + 2


@pytest.mark.slow
def test_that_it_could_be_more_often_is_seen(monkeypatch):
    for name, module in list(sys.modules.items()):
        if name.startswith("eqtangents") and "materialised" in vars(module):
            monkeypatch.setattr(module, "materialised", lambda build, index: build())
    # Another size, so that nothing compiled before is found again.
    assert look_ups(depth=4, n=3) > look_ups(depth=2, n=3) + 4


@pytest.mark.parametrize("padding", ["VALID", "SAME", "CIRCULAR"])
@pytest.mark.parametrize("nonlinearity", [nn.Relu(), nn.Erf()])
def test_no_nonlinearity_is_computed_for_each_tap(padding, nonlinearity):
    """The roots in the duals of coinciding positions are there once for each layer."""
    layers = [nn.Conv(1, (3, 3), padding=padding), nonlinearity] * 2
    net = nn.Sequential([*layers, nn.Conv(1, (3, 3), padding=padding), nn.Flatten()])
    x = jax.ShapeDtypeStruct((4, 1, 24, 24), jnp.float32)
    program = jax.jit(lambda x1, x2: eqt.kernel(net, x1, x2))
    program = program.lower(x, x).compile().as_text()
    times = times_computed(program, ["sqrt", "rsqrt", "divide"])
    assert times
    assert max(times) < 2  # what wraps around is there once more


WINDOWS = {
    "zeros around": [nn.Conv(8, 3, padding="SAME"), nn.Relu(), nn.GlobalAvgPool()],
    "strided": [nn.Conv(8, 3, 2, "SAME"), nn.Relu(), nn.Flatten()],
    "averages": [nn.AvgPool(3, 1, "SAME"), nn.Conv(8, 1), nn.Relu(), nn.Flatten()],
    "joined": [
        nn.FanOut(2),
        nn.Parallel([nn.Identity(), nn.Conv(8, 3, padding="SAME")]),
        nn.FanInConcat(1),
        nn.Conv(8, 3, padding="SAME"),
        nn.Relu(),
        nn.Flatten(),
    ],
    "recurrent": [
        nn.Recurrent(nn.Linear(8), nn.Linear(8), nn.Erf()),
        nn.GlobalAvgPool(),
    ],
}


@pytest.mark.slow
@pytest.mark.precision("float64")  # where integers are wide unless told otherwise
@pytest.mark.parametrize("name", WINDOWS)
def test_positions_are_no_wider_than_what_they_select_from(name):
    """Vectors of 64-bit masks hold half as many entries as those of float32."""
    net = nn.Sequential([nn.Conv(8, 3, padding="SAME"), nn.Relu(), *WINDOWS[name]])
    x = jax.ShapeDtypeStruct((2, 3, 9), jnp.float32)
    program = str(jax.make_jaxpr(lambda x1, x2: eqt.kernel(net, x1, x2))(x, x))
    assert "f32[" in program
    assert re.findall(r"\b[iu]64\[[^\]]+\]", program) == []
