"""Products of the outputs of a network, and both kernels at the parameters it has."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack, overload

import equinox as eqx
import jax
from jaxtyping import Array

from eqtangents._gram._placement import MeshOrMaker
from eqtangents._kernel_habits import FINITE_HABITS
from eqtangents._kernel_pair import Kernel
from eqtangents._parameters import Trainable
from eqtangents._signatures import names_checked
from eqtangents._trees import Batch, One, Params, Tree
from eqtangents.empirical._batches import checked_batches
from eqtangents.empirical._choice import Implementation
from eqtangents.empirical._network import check_model
from eqtangents.empirical._ntk import empirical_ntk
from eqtangents.empirical._options import OutputOptions, WayOptions, checked_options
from eqtangents.empirical._over_mesh import divided_products


@overload
def empirical_nngp(
    model: Callable[..., Any],
    x1: One,
    x2: One | None = None,
    params: Params | None = None,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[OutputOptions],
) -> Array: ...
@overload
def empirical_nngp(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: Params | None = None,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[OutputOptions],
) -> Tree[Array]: ...
@names_checked(FINITE_HABITS)
def empirical_nngp(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: Params | None = None,
    *,
    state: eqx.nn.State | None = None,
    trace_axes: int | Sequence[int] | None = None,
    diagonal_axes: int | Sequence[int] = (),
    mesh: MeshOrMaker | None = None,
) -> Tree[Array]:
    r"""Products of the outputs of one network, at the parameters it has.

    $$K_{iajb} = f_a(x_i)\, \overline{f_b(x'_j)}$$

    Averaged over random networks, or many outputs (by `trace_axes`), it is an estimate
    of `eqtangents.nngp`. Arguments, result and errors are as in
    `eqtangents.empirical_ntk`.

    **Cost:** an evaluation of the network for each example. Over a mesh, one device
    does it, and the others are told the outputs.
    """
    check_model(model, params, state, x1)
    whole, function = (model, None) if params is None else (params, model)
    options = checked_options(trace_axes, diagonal_axes)
    batches = checked_batches(x1, x2)
    return divided_products((whole, function, state), *batches, options, mesh)


@overload
def empirical_kernel(
    model: Callable[..., Any],
    x1: One,
    x2: One | None = None,
    params: Params | None = None,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[WayOptions],
) -> Kernel: ...
@overload
def empirical_kernel(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: Params | None = None,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[WayOptions],
) -> Tree[Kernel]: ...
@names_checked(FINITE_HABITS)
def empirical_kernel(
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
) -> Tree[Kernel]:
    """Both kernels of one network, at the parameters it has.

    Arguments and errors are as in `eqtangents.empirical_ntk`.

    **Returns:** an `eqtangents.Kernel`, as predictors take it; for several outputs a
    tree of them.
    """
    outputs: OutputOptions = {
        "state": state,
        "trace_axes": trace_axes,
        "diagonal_axes": diagonal_axes,
    }
    ntk = empirical_ntk(
        model,
        x1,
        x2,
        params,
        trainable=trainable,
        implementation=implementation,
        chunk_size=chunk_size,
        mesh=mesh,
        **outputs,
    )
    nngp = empirical_nngp(model, x1, x2, params, mesh=mesh, **outputs)
    return jax.tree.map(Kernel, nngp, ntk)
