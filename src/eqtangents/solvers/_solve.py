"""Systems of equations with a kernel, by products with it alone."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents._arguments import checked_integer, described
from eqtangents._refuse import not_finite, refuse
from eqtangents._types import is_traced
from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._block_cg import BlockResult, Product, solved_in_block
from eqtangents.solvers._operator import GramOperator
from eqtangents.solvers._preconditioner import AbstractPreconditioner


_NO_SOLUTION = (
    "`y` holds NaN or infinity, for which there is no solution. Leave out the rows "
    "that have no value."
)
_UNCONVERGED = """
Conjugate gradients did not converge: after {steps} of at most {most} steps the largest
residual{found} is above `rtol={rtol:g}`.

(a) Precondition: `BlockCG(eqtangents.rp_cholesky(operator, rank, key))`; a higher rank
    means fewer steps.
(b) If steps ran out, raise `max_steps`.
(c) If they did not, rounding keeps the residual from becoming smaller: add noise,
    raise `rtol`, or compute in float64.
(d) `throw=False` returns what was found.
""".strip()


class BlockCG(eqx.Module):
    """Block conjugate gradients, and when they stop.

    All right-hand sides are solved for together, which takes no more steps than the
    worst of them alone, and each step costs one product with the operator. Right-hand
    sides may depend on each other, as one-hot labels do once their mean is subtracted.

    `lineax.CG` has one right-hand side, or several that do not know of each other.
    """

    preconditioner: AbstractPreconditioner | None
    rtol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        preconditioner: AbstractPreconditioner | None = None,
        *,
        rtol: float = 1e-3,
        max_steps: int = 500,
    ):
        """Say how to solve.

        **Arguments:**

        - `preconditioner`: of `eqtangents.rp_cholesky`, say.
        - `rtol`: what the norm of each residual is at most, relative to its right-hand
            side.
        - `max_steps`: how many steps to take at most.

        **Raises:** `TypeError` or `ValueError` for arguments of another kind or size.
        """
        if not isinstance(preconditioner, AbstractPreconditioner | None):
            raise TypeError(
                f"`preconditioner` is {described(preconditioner)}, but must be a "
                "preconditioner, `eqtangents.rp_cholesky(operator, rank, key)` say, or "
                "`None`."
            )
        if not (isinstance(rtol, float | int) and 0 < rtol < 1):
            raise ValueError(
                f"`rtol` is {described(rtol)}, but must be a number between 0 and 1."
            )
        self.preconditioner = preconditioner
        self.rtol = float(rtol)
        self.max_steps = checked_integer("max_steps", max_steps, 1)

    def found(
        self,
        operator: lx.AbstractLinearOperator,
        targets: ColumnBlock,
        or_none: bool = False,
    ) -> BlockResult:
        """The solution for some columns, with what can be said of it.

        With `or_none` it need not be a good one if it does not converge.
        """
        return _solved_compiled(self, operator, targets, or_none)


class Solution(eqx.Module):
    """The solution of a system of equations, and how good it is."""

    value: Float[Array, "n *outputs"]
    residual: Float[Array, "*outputs"]  # relative to the right-hand side
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


def solve(
    operator: lx.AbstractLinearOperator,
    y: Float[Array, "n *outputs"],
    solver: BlockCG | None = None,
    *,
    throw: bool = True,
) -> Solution:
    r"""Solve $(K + \sigma^2 I)\, x = y$ by preconditioned block conjugate gradients.

    It is differentiable in `y` and in all that the operator is made of, by another
    solve, and works under `jax.jit` and `jax.vmap`.

    **Arguments:**

    - `operator`: an `eqtangents.GramOperator`, or any other operator of `lineax` from
        vectors to vectors that is positive semidefinite.
    - `y`: right-hand sides, along further axes. They are converted to its dtype.
    - `solver`: when to stop, and the preconditioner.
    - `throw`: whether not to converge is an error. It is raised as soon as rounding is
        seen to be larger than `rtol` allows.

    **Returns:** a `Solution`: `value` has the shape of `y`. `residual` is the norm of
    $y - (K + \sigma^2 I)\,x$ for each right-hand side, as computed from `value`, over
    that of $y$; `converged` says whether all are at most `rtol`.

    **Raises:** `RuntimeError` if it did not converge, or if `y` is not finite, unless
    `throw=False`; `ValueError` if shapes do not fit, or the operator is not positive
    semidefinite.

    **Cost:** a product with the operator each step, for all right-hand sides at once;
    one more at the end, and about ten arrays of the size of `y`.

    **Source:** O'Leary 1980; Dubrulle 2001, for right-hand sides that depend on each
    other.
    """
    solver = checked_solver(solver)
    structure = _checked_structure(operator)
    y = jnp.asarray(y, structure.dtype)
    if y.shape[:1] != structure.shape:
        raise ValueError(
            f"`y` has shape {y.shape}, but the operator has {structure.shape[0]} rows: "
            "right-hand sides along further axes, `(n, *outputs)`, are needed."
        )
    y = refuse(y, (not_finite(y), _NO_SOLUTION)) if throw else y
    outputs = y.shape[1:]
    columns = y.reshape(y.shape[0], math.prod(outputs))
    found = solver.found(operator, columns, or_none=throw)
    solution = Solution(
        found.solution.reshape(y.shape),
        found.residual.reshape(outputs),
        found.steps,
        jnp.all(found.residual <= solver.rtol),
    )
    return refuse_unconverged(solution, solver) if throw else solution


def checked_solver(solver: BlockCG | None) -> BlockCG:
    """The solver, or what it is unless users say otherwise."""
    if solver is None:
        return BlockCG()
    if not isinstance(solver, BlockCG):
        raise TypeError(
            f"`solver` is {described(solver)}, but must be an "
            "`eqtangents.solvers.BlockCG(...)`."
        )
    return solver


def _checked_structure(operator: Any) -> jax.ShapeDtypeStruct:
    """Of vectors that an operator takes and gives."""
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise TypeError(
            f"`operator` is {described(operator)}, but must be an operator: an "
            "`eqtangents.GramOperator(kernel, noise=1e-2)`, say."
        )
    structure = operator.in_structure()
    one = isinstance(structure, jax.ShapeDtypeStruct) and len(structure.shape) == 1
    if not one or not lx.is_positive_semidefinite(operator):
        raise ValueError(
            "`operator` must be positive semidefinite, and take vectors to vectors. An "
            "`eqtangents.GramOperator` of a matrix is told to be so by its `noise`, be "
            "it 0; another operator by `lineax.TaggedLinearOperator(operator, "
            "lineax.positive_semidefinite_tag)`."
        )
    return structure


def refuse_unconverged(solution: Solution, solver: BlockCG) -> Solution:
    """The same solution, unless it is none.

    **Raises:** `RuntimeError`.
    """
    steps, found = "some", ""
    known_now = not is_traced(solution.converged)
    if known_now and solution.converged:
        return solution
    if known_now:
        steps, found = str(solution.steps), f", {jnp.max(solution.residual):.2g},"
    message = _UNCONVERGED.format(
        steps=steps, most=solver.max_steps, found=found, rtol=solver.rtol
    )
    return refuse(solution, (~solution.converged, message))


def product_with(operator: lx.AbstractLinearOperator) -> Product:
    """The product with several columns at once."""
    if isinstance(operator, GramOperator):
        return operator.multiply
    return jax.vmap(operator.mv, 1, 1)


@eqx.filter_jit
def _solved_compiled(
    solver: BlockCG,
    operator: lx.AbstractLinearOperator,
    targets: ColumnBlock,
    or_none: bool,
) -> BlockResult:
    """By JAX's implicit differentiation: its derivative solves again."""
    product = product_with(operator)
    preconditioner = lax.stop_gradient(solver.preconditioner)

    def solved(product: Product, columns: ColumnBlock) -> tuple[ColumnBlock, Any]:
        found = solved_in_block(
            product, preconditioner, columns, solver.rtol, solver.max_steps, or_none
        )
        return found.solution, (found.residual, found.steps)

    solution, about = lax.custom_linear_solve(
        product, targets, solved, symmetric=True, has_aux=True
    )
    return BlockResult(solution, *about)
