"""Deep networks are followed layer by layer: Python's stack is no deeper for them."""

import sys

import jax
import jax.numpy as jnp
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents.covariance._order import first_to_last


pytestmark = pytest.mark.precision("float32")


def conv(i, **options):
    return nn.Conv(8, 3, weight_std=1 + i / 100, **options)


def attention(i):
    heads = {"key_channels": 4, "value_channels": 4, "heads": 2}
    attend = nn.GlobalSelfAttention(8, **heads, linear_scaling=True)
    return [nn.LayerNorm(), attend, nn.Linear(8, weight_std=1 + i / 100)]


# Blocks of which no two are the same, so that none is taken for another.
BLOCKS = {
    "convolutions": (
        (1, 4),
        lambda i: [nn.Relu(), conv(i, padding="SAME")],
        nn.GlobalAvgPool(),
    ),
    "where positions coincide": (
        (1, 4),
        lambda i: [nn.Relu(), conv(i, padding="SAME")],
        nn.Flatten(),
    ),
    "vectors": ((3,), lambda i: [nn.Erf(), nn.Linear(8, weight_std=1 + i / 100)], None),
    "attention": ((8, 2), attention, nn.GlobalAvgPool()),
    "attention beside its input": (
        (8, 2),
        lambda i: [nn.Residual(nn.Sequential(attention(i)))],
        nn.Flatten(),
    ),
}


def deepest_stack(function):
    """How many Python functions were running at once."""
    running = deepest = 0

    def count(frame, event, argument):
        nonlocal running, deepest
        running += {"call": 1, "return": -1}.get(event, 0)
        deepest = max(deepest, running)

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return deepest


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("shape", "block", "readout"), BLOCKS.values(), ids=BLOCKS.keys()
)
def test_stack_is_no_deeper_for_more_layers(shape, block, readout):
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    last = [nn.Linear(1)] if readout is None else [readout, nn.Linear(1)]

    def trace(depth):
        layers = [layer for i in range(depth) for layer in block(i)]
        net = nn.Sequential([nn.Linear(8), *layers, *last])
        jax.eval_shape(lambda x: eqt.kernel(net, x), x)

    trace(1)  # what is traced once
    few, many = (deepest_stack(lambda d=d: trace(d)) for d in (8, 14))
    assert many < few + 40


def test_order_is_from_the_first_to_the_last():
    above = {"d": ["b", "c"], "c": ["a"], "b": ["a"], "a": [], "e": []}
    assert first_to_last("d", above.__getitem__) == ["a", "c", "b", "d"]
