"""How variances and correlations of two signals change from block to block."""

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._arguments import check, checked_integer, rule_of
from eqtangents._trees import varying_zero
from eqtangents._types import AxisSizes, Rule, ScalarOrBatch
from eqtangents.mean_field._block import SecondMoments, after_block, checked_block
from eqtangents.mean_field._fixed_point import FixedPoint, fixed_point
from eqtangents.nn import AbstractLayer
from eqtangents.predict._arguments import (
    in_range,
    of_floats,
    refuse,
)


class SignalState(eqx.Module):
    """Variances of one channel for two inputs, and their correlation.

    `deficit` is one less the correlation `c`, to digits that `c` itself has not.
    """

    q1: Float[Array, "*batch"]
    q2: Float[Array, "*batch"]
    c: Float[Array, "*batch"]
    deficit: Float[Array, "*batch"]


class CorrelationMap(eqx.Module):
    r"""How one block maps the variances and the correlation of two signals.

    In a network of infinite width, channels before a block are Gaussian, with variances
    $q_1$, $q_2$ for two inputs and correlation $c$. After it they are again. For
    `nn.Sequential([phi, nn.Linear(1, weight_std=w, bias_std=b)])`,

    $$q_i' = w^2\, \mathbb{E}\, \phi(u_i)^2 + b^2, \qquad
    c' = \frac{w^2\, \mathbb{E}\, \phi(u_1) \phi(u_2) + b^2}{\sqrt{q_1' q_2'}},$$

    with $u_1, u_2$ Gaussian of variances $q_1, q_2$ and correlation $c$. A block may be
    any layer that keeps its positions and sums over none: residual ones, convolutions,
    several layers, normalisation.

    **Source:** Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017,
    arXiv:1611.01232.
    """

    block: AbstractLayer
    size: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, block: AbstractLayer, size: tuple[int, ...] = ()):
        """Take a block.

        **Arguments:**

        - `block`: the layer. One that begins with a nonlinearity maps preactivations,
            one that ends with it maps activations.
        - `size`: the positions of its signals, if it needs any: convolutions do.
            Signals then are alike at all positions, which periodic paddings keep.

        **Raises:** `TypeError` if it is no layer, or the size no tuple of positive
        integers, `LayerError` if it changes the positions or mixes them.
        """
        check("CorrelationMap", "size", size, _SIZE_RULE)
        self.block, self.size = checked_block(block, tuple(size)), tuple(size)

    def __call__(
        self, q1: ScalarOrBatch, q2: ScalarOrBatch, c: ScalarOrBatch
    ) -> SignalState:
        """The state after one block.

        **Arguments:**

        - `q1`, `q2`: the variances, not negative.
        - `c`: the correlation, from -1 to 1. All three may be arrays that broadcast.

        **Returns:** a `SignalState` of the common shape.

        **Raises:** `RuntimeError` if a variance is negative, or the correlation beyond
        rounding from -1 to 1, or one is not finite.
        """
        return jax.tree.map(lambda leaf: leaf[1], self.trajectory(q1, q2, c, 1))

    def trajectory(
        self, q1: ScalarOrBatch, q2: ScalarOrBatch, c: ScalarOrBatch, n: int
    ) -> SignalState:
        """The states at every depth from 0 to `n`, in one scan.

        **Arguments:** those of a call, and

        - `n`: the number of blocks.

        **Returns:** a `SignalState` whose arrays have depth as first axis, of `n + 1`.

        **Raises:** what a call does.
        """
        n = checked_integer("n", n, least=0)
        q1, q2 = _number_from("q1", q1), _number_from("q2", q2)
        c = _number_from("c", c, -1 - _BEYOND_ONE, 1 + _BEYOND_ONE)
        q1, q2, c = _floating(q1, q2, c)
        run = partial(_states_at_all_depths, self._after, n=n)
        for _ in range(c.ndim):
            run = jax.vmap(run, out_axes=1)
        return run(q1, q2, c)

    def fixed_point(self, q0: ScalarOrBatch = 1.0) -> FixedPoint:
        r"""The state that signals approach with depth, and the slopes there.

        It is differentiable with respect to the hyperparameters of the block, by the
        implicit function theorem.

        **Arguments:**

        - `q0`: the variance that signals start with, which matters if there are several
            fixed points; an array for several.

        **Returns:** a `FixedPoint` of the shape of `q0`.

        **Raises:** `RuntimeError` if `q0` is negative or not finite, or the block makes
        NaN of it.

        **Cost:** some hundred evaluations of the block for one pair of inputs. They
        are slow to compile for functions that are expanded, as `nn.Tanh`; batches of
        blocks by `equinox.filter_vmap` compile once.
        """
        end = fixed_point_or_nan(self, q0)
        return refuse(end, (jnp.any(jnp.isnan(end.q)), NOT_A_NUMBER))

    def _after(self, moments: SecondMoments) -> SecondMoments:
        """The moments after the block, for signals that are alike at all positions."""
        spread = jax.tree.map(lambda x: jnp.broadcast_to(x, self.size), moments)
        result = after_block(self.block, spread)
        if self.size:
            variance = result.variance1
            off = jnp.max(variance) - jnp.min(variance)
            alike = off <= 1e3 * jnp.finfo(variance.dtype).eps * jnp.max(variance)
            result = refuse(result, (jnp.isfinite(off) & ~alike, _NOT_ALIKE))
        return jax.tree.map(jnp.mean, result)


_NOT_ALIKE = (
    "The block makes signals differ from position to position that were alike. Pad "
    'periodically: `nn.Conv(..., padding="CIRCULAR")`.'
)


NOT_A_NUMBER = (
    "The block makes NaN of the variance `q0`. Its hyperparameters must be finite: the "
    "root of a negative variance is NaN, for one. Functions that are expanded, as "
    "`nn.Tanh`, are NaN where `q0` is too large for their expansion."
)


def fixed_point_or_nan(
    correlation_map: CorrelationMap, q0: ScalarOrBatch
) -> FixedPoint:
    """The fixed point, which is NaN for a block that makes NaN of `q0`."""
    (q0,) = _floating(_number_from("q0", q0))
    solve = partial(fixed_point, correlation_map._after)
    for _ in range(q0.ndim):
        solve = jax.vmap(solve)
    return solve(q0)


_SIZE_RULE = cast(Rule, rule_of(AxisSizes))
_BEYOND_ONE = 1e-5  # of a correlation, in single precision


def _number_from(
    name: str, value: ScalarOrBatch, least: float = 0.0, most: float = math.inf
) -> ScalarOrBatch:
    """The same numbers; those of Python are checked now, also within `jax.jit`."""
    if not isinstance(value, float | int):
        value = of_floats(name, value)
    return in_range(name, value, least, most)


def _floating(*numbers: ScalarOrBatch) -> tuple[Float[Array, "*batch"], ...]:
    dtype = jnp.result_type(float, *map(jnp.result_type, numbers))
    arrays = [jnp.asarray(x, dtype) for x in numbers]
    try:
        return tuple(jnp.broadcast_arrays(*arrays))
    except ValueError:
        shapes = ", ".join(str(x.shape) for x in arrays)
        raise ValueError(
            f"`q1`, `q2` and `c` have shapes {shapes}, which do not broadcast: give "
            "numbers, or arrays of one shape."
        ) from None


@eqx.filter_jit
def _states_at_all_depths(
    after: Callable[[SecondMoments], SecondMoments],
    q1: Float[Array, ""],
    q2: Float[Array, ""],
    c: Float[Array, ""],
    n: int,
) -> SignalState:
    def step(moments: SecondMoments, _: None) -> tuple[SecondMoments, SignalState]:
        moments = after(moments)
        return moments, _signal_state(moments)

    start = SecondMoments.correlated(q1, q2, 1 - c)
    zero = varying_zero(after(start), c.dtype)
    start = jax.tree.map(lambda moment: moment + zero, start)
    _, later = lax.scan(step, start, None, length=n)
    joined = lambda first, rest: jnp.concatenate([first[None], rest])
    return jax.tree.map(joined, _signal_state(start), later)


def _signal_state(moments: SecondMoments) -> SignalState:
    deficit = moments.deficit
    return SignalState(moments.variance1, moments.variance2, 1 - deficit, deficit)
