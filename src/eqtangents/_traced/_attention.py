"""Attention that is written by hand: products of queries and keys, and what follows."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jaxtyping import Bool, Float

from eqtangents import nn
from eqtangents._jaxpr import bind, shape_of
from eqtangents._traced._builder import Builder
from eqtangents._traced._expressions import (
    Hole,
    multiple,
    results_of,
    value_of_expression,
)
from eqtangents._traced._layout import AxisFactors, Layout
from eqtangents._traced._values import (
    Node,
    RandomValue,
    ReadValue,
    Scores,
    Unreadable,
)
from eqtangents.nn._keys import within_reach


def begun_scores(
    builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]
) -> list[Scores]:
    """The products of two random arrays, over the channels of each head."""
    over, heads = eqn.params["dimension_numbers"]
    ends = [_one_end(builder, a, over[i], heads[i]) for i, a in enumerate(args)]
    shape = shape_of(eqn.outvars[0])
    channels = math.prod(args[0].shape[axis] for axis in over[0])
    nodes = tuple((node, positions) for node, positions, _ in ends)
    # One for products that are written twice, as where a softmax is.
    hole = builder.once(("scores", *nodes, *heads, shape), lambda: Hole(shape))
    products = multiple(hole, math.prod(factor for _, _, factor in ends))
    return [Scores(nodes, len(heads[0]), channels, hole, products, builder.line)]


def _one_end(
    builder: Builder, signal: RandomValue, over: Sequence[int], heads: Sequence[int]
) -> tuple[Node, AxisFactors, float]:
    """Queries or keys, with positions in a row, these, and the multiple that it is."""
    signal = builder.settled(signal)
    layout = signal.layout
    rest = [a for a in range(len(signal.shape)) if a not in (*over, *heads)]
    rest = _of_several(rest, signal.shape)
    of_heads = [f for axis in (*heads, *over) for f in layout.axes[axis]]
    if (
        len(_of_several(heads, signal.shape)) > 1
        or len(rest) != 1
        or tuple(of_heads) != layout.channels
    ):
        raise _no_attention("multiplies two random arrays and sums")
    (row,) = rest
    signal = builder.rearranged(signal, [layout.axes[row]])
    if len(signal.terms) > 1:
        return builder.node(signal), layout.axes[row], 1.0
    ((node, factor),) = signal.terms.items()
    return node, layout.axes[row], factor


def _of_several(axes: Sequence[int], shape: Sequence[int]) -> Sequence[int]:
    """The axes that have several entries, or the first if none has."""
    return [axis for axis in axes if shape[axis] > 1] or axes[:1]


def _no_attention(what: str) -> Unreadable:
    return Unreadable(
        f"{what}, as scores of attention do, but not over all channels of each of some "
        "heads for all pairs of positions. Write `softmax(q @ k.T / q.shape[-1]) @ v`."
    )


def with_scores(builder: Builder, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """What is computed of scores is kept, until values are weighed by it."""
    scores = [arg for arg in args if isinstance(arg, Scores)]
    others = [a for a in args if isinstance(a, ReadValue) and not isinstance(a, Scores)]
    if eqn.primitive.name == "dot_general" and len(scores) == len(others) == 1:
        if isinstance(others[0], RandomValue):
            return [_attended_values(builder, eqn, scores[0], others[0], args)]
    if others or any(one.hole is not scores[0].hole for one in scores):
        raise Unreadable(
            "joins scores of attention with what is neither constant nor values. Masks "
            "and biases of keys must be constants; those of the input are told by "
            "`nn.Masked`, to a network of `eqtangents.nn.Attend`."
        )
    given = [arg.expression if isinstance(arg, Scores) else arg for arg in args]
    return [scores[0].continued(one) for one in results_of(eqn, given)]


def _attended_values(
    builder: Builder,
    eqn: core.JaxprEqn,
    scores: Scores,
    values: RandomValue,
    args: Sequence[Any],
) -> RandomValue:
    """The values of all keys, weighed by scores."""
    over, heads = eqn.params["dimension_numbers"]
    at = 0 if args[0] is scores else 1
    values = builder.settled(values)
    layout = values.layout
    own = [
        a for a in range(len(values.shape)) if a not in (*over[1 - at], *heads[1 - at])
    ]
    channels = [f for a in (*heads[1 - at], *own) for f in layout.axes[a]]
    rows = [a for a in range(len(scores.shape)) if a not in (*over[at], *heads[at])]
    (row, *more) = _of_several(rows, scores.shape)
    if more or len(over[0]) != 1 or tuple(channels) != layout.channels:
        raise _no_attention("weighs one random array by another")
    if len(heads[0]) != scores.heads:
        raise _no_attention("weighs values of other heads than those of its scores")
    order = (*heads[at], *rows, *over[at])
    layer, (queries, keys) = _recognised_softmax(scores, order)
    positions = queries[1]
    values = builder.rearranged(values, [layout.axes[over[1 - at][0]]])
    reads = [queries[0], keys[0], builder.node(values)]
    shape = (reads[2].shape[0], queries[0].shape[1])
    made = builder.plain(layer, reads, shape)
    of_heads = [layout.axes[a] for a in heads[1 - at]]
    of_rows = [positions if a == row else () for a in rows]
    free = [of_rows, [layout.axes[a] for a in own]]
    axes = (*of_heads, *free[at], *free[1 - at])
    return RandomValue.of(made, Layout(layout.channels, (positions,), axes))


def _recognised_softmax(
    scores: Scores, order: Sequence[int]
) -> tuple[nn.Attend, Sequence[tuple[Node, AxisFactors]]]:
    """The layer whose weights an expression is, and its queries and keys."""
    heads = math.prod(scores.hole.shape[: scores.heads])
    size = [math.prod(f.size for f in positions) for _, positions in scores.ends]
    products = np.random.default_rng(0).normal(size=(heads, *size))
    arrangements = [
        (products, scores.ends),
        (products.swapaxes(-1, -2), scores.ends[::-1]),
    ]
    weights = lambda factor: _weights_of_values(scores, factor * products, order)
    bias = _bias_of_softmax(weights(0.0))
    told = weights(scores.channels)
    for arranged, ends in arrangements:
        if bias is not None and _is_softmax(told, arranged, bias):
            return _softmax_layer(heads, bias), ends
    for factor, said in (
        (math.sqrt(scores.channels), "by the root of the number of channels"),
        (1.0, "by no number"),
    ):
        found = weights(factor)
        if bias is not None and any(
            _is_softmax(found, a, bias) for a, _ in arrangements
        ):
            raise Unreadable(
                f"divides scores of attention {said}, so that weights stay random, or "
                "grow, as channels widen. Divide by the number of channels of a key, "
                "`softmax(q @ k.T / q.shape[-1]) @ v`, which has a limit."
            )
    raise Unreadable(
        f"weighs values by a function of scores, in {scores.line}, that is no softmax "
        "over keys, with constant biases alike for all heads, of products divided by "
        "the number of channels of a key."
    )


def _weights_of_values(
    scores: Scores, products: Float[np.ndarray, "..."], order: Sequence[int]
) -> Float[np.ndarray, "heads queries keys"]:
    """What values are weighed by, for some products over channels."""
    apply = lambda eqn, args: bind(eqn, *args)
    with jax.ensure_compile_time_eval():
        given = jax.numpy.asarray(products, jax.numpy.zeros(()).dtype)
        given = given.reshape(scores.hole.shape)
        found = value_of_expression(scores.expression, {scores.hole: given}, apply)
    moved = np.asarray(found, float).transpose(order)
    return moved.reshape(len(products), -1, moved.shape[-1])


def _bias_of_softmax(
    weights: Float[np.ndarray, "heads queries keys"],
) -> Float[np.ndarray, "queries keys"] | None:
    """The bias of a softmax that is all there is where products are zero."""
    flat = weights.reshape(-1, *weights.shape[-2:])
    if not np.isfinite(flat).all() or (flat < 0).any() or (flat.max(-1) == 0).any():
        return None
    if not np.allclose(flat, flat[:1], rtol=1e-4, atol=1e-7):
        return None
    with np.errstate(divide="ignore"):
        return np.log(flat[0] / flat[0].max(-1, keepdims=True))


def _is_softmax(
    weights: Float[np.ndarray, "heads queries keys"],
    products: Float[np.ndarray, "heads queries keys"],
    bias: Float[np.ndarray, "queries keys"],
) -> bool:
    """Whether these are the weights of a softmax of products with a bias."""
    if weights.shape != products.shape:
        return False
    expected = np.exp(products + bias)
    expected /= expected.sum(-1, keepdims=True)
    return np.allclose(weights, expected, rtol=1e-3, atol=1e-5)


def _softmax_layer(heads: int, bias: Float[np.ndarray, "queries keys"]) -> nn.Attend:
    if np.allclose(bias, 0, atol=1e-4):
        return nn.Attend(heads=heads)
    reach = _told_by_reach(bias)
    if reach is not None:
        return nn.Attend(heads=heads, reach=reach)
    return nn.Attend(heads=heads, bias=bias)


def _told_by_reach(bias: Float[np.ndarray, "queries keys"]) -> Any:
    """The reach of a bias that tells nothing else; `None` if it does."""
    there: Bool[np.ndarray, "queries keys"] = bias > -np.inf
    n, m = bias.shape
    if n != m or not np.allclose(bias[there], 0, atol=1e-4):
        return None
    later = np.subtract.outer(np.arange(n), np.arange(n))[there]
    before, after = int(later.max()), int(-later.min())
    if min(before, after) < 0:
        return None
    any_distance = lambda far: None if far == n - 1 else far
    reach = ((any_distance(before), any_distance(after)),)
    return reach if (within_reach((n,), reach) == there).all() else None
