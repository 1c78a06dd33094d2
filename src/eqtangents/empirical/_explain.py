"""An explanation of how a tangent kernel would be computed, and at which cost."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack, overload

import equinox as eqx

from eqtangents._gram._placement import MeshOrMaker
from eqtangents._kernel_habits import FINITE_HABITS
from eqtangents._parameters import Trainable
from eqtangents._signatures import names_checked
from eqtangents._trees import Batch, One, Params, Tree
from eqtangents.empirical._choice import Explanation, Implementation
from eqtangents.empirical._options import WayOptions, checked_network, checked_options
from eqtangents.empirical._over_mesh import explained_over


@overload
def explain_empirical_ntk(
    model: Callable[..., Any],
    x1: One,
    x2: One | None = None,
    params: Params | None = None,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[WayOptions],
) -> Explanation: ...
@overload
def explain_empirical_ntk(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: Params | None = None,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[WayOptions],
) -> Tree[Explanation]: ...
@names_checked(FINITE_HABITS)
def explain_empirical_ntk(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: Params | None = None,
    *,
    trainable: Trainable = None,
    state: eqx.nn.State | None = None,
    trace_axes: int | Sequence[int] | None = None,
    diagonal_axes: int | Sequence[int] = (),
    implementation: Implementation = "auto",
    chunk_size: int | None = None,
    mesh: MeshOrMaker | None = None,
) -> Tree[Explanation]:
    """Explain how `eqtangents.empirical_ntk` would compute a kernel, and the cost.

    Costs are estimated from shapes: floating-point operations and bytes moved, taken
    together as a time at 8 operations to the byte; operations of vector products, which
    work on one column at a time, count four times. Nothing is compiled or run.

    Over a mesh they are the costs of one device, of all tiles of the kernel that it
    computes; it holds what one of them takes.

    Arguments and errors are as in `eqtangents.empirical_ntk`.

    **Returns:** an `Explanation` to print; for several outputs a tree of them.
    """
    options = checked_options(trace_axes, diagonal_axes, implementation, chunk_size)
    return explained_over(
        *checked_network(model, x1, x2, params, trainable, state), options, mesh
    )
