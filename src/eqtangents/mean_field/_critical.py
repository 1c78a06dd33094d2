"""Where order turns into chaos: critical hyperparameters and phase diagrams."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._arguments import described
from eqtangents._roots import bisected, implicit_root
from eqtangents._types import Scalar
from eqtangents.mean_field._correlation_map import (
    NOT_A_NUMBER,
    CorrelationMap,
    fixed_point_or_nan,
)
from eqtangents.mean_field._fixed_point import FixedPoint
from eqtangents.nn import AbstractLayer
from eqtangents.predict._arguments import (
    check_function,
    one_number,
    real_array,
    refuse,
)


_ONE_PHASE = (
    "`bracket` has both ends in one phase. Give one end in order, with `chi_1` below "
    "1, and one in chaos, with it above 1, or not a number as signals grow without "
    "bound: `CorrelationMap(make_block(value)).fixed_point().chi_1` says which."
)


_FROM_NUMBERS = "a function from hyperparameters to a block"


def critical(
    make_block: Callable[[Float[Array, ""]], AbstractLayer],
    bracket: tuple[Scalar, Scalar],
    *,
    q0: Scalar = 1.0,
) -> Float[Array, ""]:
    r"""The hyperparameter at the edge of chaos, where $\chi_1 = 1$.

    There, gradients neither grow nor vanish with depth, and signals forget slower than
    exponentially. The result is differentiable with respect to all that `make_block`
    closes over, by the implicit function theorem. Where signals grow without bound
    counts as chaos: functions that grow in proportion to their argument, as `Relu`,
    have signals that do so from the critical value on. It has no derivative there.

    **Arguments:**

    - `make_block`: the block for one value of the hyperparameter,
        `lambda v: nn.Sequential([nn.Tanh(), nn.Linear(1, weight_std=v**0.5)])`, say.
    - `bracket`: two values, with order at one and chaos at the other.
    - `q0`: the variance that signals start with.

    **Returns:** the critical value, to the last digits of its dtype.

    **Raises:** `RuntimeError` if both ends of the bracket are in one phase, or are not
    finite, or have blocks that make NaN of `q0`; `TypeError` or `ValueError` if these
    are not two numbers.

    **Cost:** about fifty fixed points in double precision.

    **Source:** Schoenholz et al. 2017, arXiv:1611.01232.
    """
    check_function("make_block", make_block, _FROM_NUMBERS)
    if not isinstance(bracket, tuple | list) or len(bracket) != 2:
        raise TypeError(
            f"`bracket` is {described(bracket)}, but two numbers are needed, one in "
            "order and one in chaos: `(1.0, 3.0)`, say."
        )
    q0 = one_number("q0", q0)
    bracket = (
        one_number("bracket[0]", bracket[0]),
        one_number("bracket[1]", bracket[1]),
    )
    dtype = jnp.result_type(float, *map(jnp.result_type, bracket))
    lower, upper = real_array(
        "bracket", jnp.stack([jnp.asarray(x, dtype) for x in bracket])
    )

    def excess(value: Float[Array, ""]) -> Float[Array, ""]:
        end = fixed_point_or_nan(CorrelationMap(make_block(value)), q0)
        return jnp.where(jnp.isinf(end.q), jnp.ones_like(end.q), end.chi_1 - 1)

    ends = jnp.stack([lower, upper])
    at_ends = jax.vmap(excess)(ends)
    product = jnp.prod(at_ends)
    ends = refuse(ends, (jnp.isnan(product), NOT_A_NUMBER), (product > 0, _ONE_PHASE))
    order, chaos = jnp.where(at_ends[0] < 0, ends, ends[::-1])

    def solve(
        excess: Callable[[Float[Array, ""]], Float[Array, ""]], start: Float[Array, ""]
    ) -> tuple[Float[Array, ""], None]:
        return bisected(excess, order, chaos), None

    return implicit_root(excess, jnp.mean(ends), solve)[0]


def phase_diagram(
    make_block: Callable[[Float[Array, ""], Float[Array, ""]], AbstractLayer],
    weight_variances: Float[Array, " w"],
    bias_variances: Float[Array, " b"],
    *,
    q0: Scalar = 1.0,
) -> FixedPoint:
    r"""Fixed points over a grid of two hyperparameters.

    Order is where `chi_1` is below one, chaos where it is above, and the line between
    them is its contour at one. The depth scales are `phase_diagram(...).depth_scales`.

    **Arguments:**

    - `make_block`: the block for two values, of which one is each array's.
    - `weight_variances`, `bias_variances`: the values along either axis.
    - `q0`: the variance that signals start with.

    **Returns:** a `FixedPoint` of arrays `(w, b)`.

    **Raises:** `ValueError` if the values are not arrays with one axis, `RuntimeError`
    if one is not finite, or its block makes NaN of `q0`.

    **Source:** Poole et al. 2016, arXiv:1606.05340; Schoenholz et al. 2017,
    arXiv:1611.01232.
    """
    check_function("make_block", make_block, _FROM_NUMBERS)
    axes = [
        real_array("weight_variances", weight_variances),
        real_array("bias_variances", bias_variances),
    ]
    if any(axis.ndim != 1 for axis in axes):
        raise ValueError(
            f"`weight_variances` has shape {axes[0].shape} and `bias_variances` "
            f"{axes[1].shape}, but the values along either axis are needed: "
            "`jnp.linspace(0.5, 4.0, 20)`, say."
        )

    def at(
        weight_variance: Float[Array, ""], bias_variance: Float[Array, ""]
    ) -> FixedPoint:
        one = CorrelationMap(make_block(weight_variance, bias_variance))
        return fixed_point_or_nan(one, q0)

    along_biases = jax.vmap(at, in_axes=(None, 0))
    diagram = jax.vmap(along_biases, in_axes=(0, None))(*axes)
    return refuse(diagram, (jnp.any(jnp.isnan(diagram.q)), NOT_A_NUMBER))
