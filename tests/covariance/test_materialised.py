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


def test_look_ups_do_not_multiply_with_depth():
    assert look_ups(depth=4, n=4) == look_ups(depth=2, n=4)


@pytest.mark.slow
def test_that_they_would_is_seen(monkeypatch):
    for name, module in list(sys.modules.items()):
        if name.startswith("eqtangents") and "materialised" in vars(module):
            monkeypatch.setattr(module, "materialised", lambda build, index: build())
    # Another size, so that nothing compiled before is found again.
    assert look_ups(depth=4, n=3) > look_ups(depth=2, n=3) + 4
