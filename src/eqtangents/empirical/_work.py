"""Operations of programs, counted from shapes alone."""

import dataclasses
import math
from typing import Any

from jax import lax
from jax.extend import core
from jax.extend.core import primitives

from eqtangents._jaxpr import jaxpr_and_consts, shape_of


@dataclasses.dataclass(frozen=True)
class Work:
    """Operations of one evaluation of a program, and numbers it writes."""

    flops: float = 0.0
    written: float = 0.0
    has_custom_vjp: bool = False

    def __add__(self, other: "Work") -> "Work":
        """The work of both."""
        custom = self.has_custom_vjp or other.has_custom_vjp
        return Work(self.flops + other.flops, self.written + other.written, custom)


def work(program: Any) -> Work:
    """Count the operations and writes of a traced program.

    A `while` loop counts as one iteration, since its length is unknown.
    """
    return sum(map(work_of_equation, jaxpr_and_consts(program)[0].eqns), Work())


def work_of_equation(eqn: core.JaxprEqn) -> Work:
    """Count the operations and writes of one equation, with all that is inside."""
    inner = [
        work(item)
        for value in eqn.params.values()
        for item in (value if isinstance(value, tuple | list) else (value,))
        if isinstance(item, core.Jaxpr | core.ClosedJaxpr)
    ]
    if not inner:
        size = float(sum(math.prod(shape_of(v)) for v in eqn.outvars))
        inner = [Work(size * _per_output(eqn), size)]
    count = eqn.params["length"] if eqn.primitive is lax.scan_p else 1
    total = sum(inner, Work())
    custom = eqn.primitive is primitives.custom_vjp_call_p or total.has_custom_vjp
    return Work(count * total.flops, count * total.written, custom)


def _per_output(eqn: core.JaxprEqn) -> float:
    """Operations for one number of the result."""
    if eqn.primitive is lax.dot_general_p:
        (axes, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * math.prod(shape_of(eqn.invars[0])[axis] for axis in axes)
    if eqn.primitive is lax.conv_general_dilated_p:
        _, *others = eqn.params["dimension_numbers"].rhs_spec
        return 2.0 * math.prod(shape_of(eqn.invars[1])[axis] for axis in others)
    return 1.0
