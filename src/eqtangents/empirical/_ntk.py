"""The neural tangent kernel of a network at the parameters it has."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, Unpack, overload

import equinox as eqx
import jax
from jaxtyping import Array

from eqtangents._gram._placement import MeshOrMaker
from eqtangents._kernel_habits import FINITE_HABITS
from eqtangents._parameters import Model, Trainable
from eqtangents._signatures import names_checked
from eqtangents._trees import Batch, One, Params, Tree
from eqtangents.empirical._choice import Implementation
from eqtangents.empirical._evaluate import is_contributions
from eqtangents.empirical._options import (
    ParameterOptions,
    WayOptions,
    checked_network,
    checked_options,
)
from eqtangents.empirical._over_mesh import divided_tangents


Whole = TypeVar("Whole")


@overload
def empirical_ntk(
    model: Callable[..., Any],
    x1: One,
    x2: One | None = None,
    params: Params | None = None,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[WayOptions],
) -> Array: ...
@overload
def empirical_ntk(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: Params | None = None,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[WayOptions],
) -> Tree[Array]: ...
@names_checked(FINITE_HABITS)
def empirical_ntk(
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
) -> Tree[Array]:
    r"""The neural tangent kernel of one network, at the parameters it has.

    $$\Theta_{iajb} = \sum_p \partial_{\theta_p} f_a(x_i)\,
    \partial_{\theta_p} f_b(x'_j)$$

    **Arguments:**

    - `model`: a module that maps one example; or, if `params` are given, a function
        `f(params, example)`. It is mapped over the examples of a batch. A function
        that mixes the rows of a batch looks like a function of single examples: for
        it, take the whole batch as one example, `x[None]`.
    - `x1`, `x2`: batches, with a leading axis of examples: arrays, or trees of them (an
        example with its random key, say). Without `x2`, of `x1` with itself.
    - `params`: the parameters of a function, a tree. A complex one counts as two real
        ones.
    - `trainable`: which leaves of the module, or of `params`, are differentiated in: a
        test of leaves, or a tree of booleans, or of learning rates, which multiply what
        each leaf contributes. Of those it picks, floating-point and complex arrays are.
        By default all are but hyperparameters of layers of `eqtangents.nn`, such as a
        `weight_std` that is an array, in which `eqtangents.ntk` does not differentiate
        either; `eqx.is_inexact_array` picks these too.
    - `state`: the state of the model's layers, as it came from
        `eqx.nn.make_with_state`. The network is then called as `model(x, state)`, and
        the new state that it returns is dropped.
    - `trace_axes`: axes of one example's output over which to average the diagonal; the
        kernel does not have them. By default the first one, the channels, if there is
        one that is not diagonal: this kernel approaches `eqtangents.ntk` with width.
        `()` for all pairs of outputs.
    - `diagonal_axes`: axes of which only equal indices are compared.
    - `implementation`: how. `"jacobian"` contracts Jacobians; `"structured"` uses how
        parameters enter, layer by layer where that is cheaper; `"vector_products"`
        multiplies the kernel with all columns of the identity; `"auto"` takes the one
        with the least estimated time that fits in memory, see
        `eqtangents.explain_empirical_ntk`.
    - `chunk_size`: how many rows of the Jacobian (an output of an example each) of
        either batch, or columns of the kernel, to treat at a time. Without, as many as
        are estimated to take 2 GiB, of each device.
    - `mesh`: devices to divide the kernel over, as `eqtangents.gram` does. By default
        those over whose explicit axes a batch is split, if one is.

    **Returns:** an array with axes `(n1, n2, *diagonal, *outputs1, *outputs2)`, outputs
    without traced and diagonal axes; for several outputs a tree of them, each output
    with itself. Over a mesh they are global arrays, split as those of
    `eqtangents.gram`.

    **Raises:** `ValueError` if there is nothing to train, a model has state that is not
    given, the batches do not fit each other, an axis does not exist or is named twice,
    the outputs are complex, or the network has a loop without derivative; `TypeError`
    if an argument is of another kind.

    **Cost:** see `eqtangents.explain_empirical_ntk`. Of $D$ devices each has a share of
    the pairs, $n_1 n_2 / D$, and forms the rows of the Jacobian for its own
    $n_1 / D$ examples and the $n_2$ that it pairs them with; with two axes of $A$ and
    $B$ devices, for $n_1 / A$ and $n_2 / B$. Without `x2` it has
    $n_1^2 (1 / 2 + 1 / D) / D$ pairs, and rows for $n_1 (1 + 2 / D)$ examples. Devices
    hand one another inputs, which are few numbers: the rows of an example are, for each
    output, as many as there are parameters, or values inside of the network.

    **Source:** Jacot et al. 2018, arXiv:1806.07572; Novak et al. 2022,
    arXiv:2206.08720.
    """
    options = checked_options(trace_axes, diagonal_axes, implementation, chunk_size)
    found = divided_tangents(
        *checked_network(model, x1, x2, params, trainable, state), options, mesh
    )
    return jax.tree.map(lambda terms: terms.total, found, is_leaf=is_contributions)


@overload
def empirical_ntk_by_leaf(
    model: Model,
    x1: Batch,
    x2: Batch | None = None,
    params: None = None,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[ParameterOptions],
) -> Model: ...
@overload
def empirical_ntk_by_leaf(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None,
    params: Whole,
    *,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[ParameterOptions],
) -> Whole: ...
@overload
def empirical_ntk_by_leaf(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    *,
    params: Whole,
    mesh: MeshOrMaker | None = None,
    **options: Unpack[ParameterOptions],
) -> Whole: ...
@names_checked(FINITE_HABITS)
def empirical_ntk_by_leaf(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: Params | None = None,
    *,
    trainable: Trainable = None,
    state: eqx.nn.State | None = None,
    trace_axes: int | Sequence[int] | None = None,
    diagonal_axes: int | Sequence[int] = (),
    chunk_size: int | None = None,
    mesh: MeshOrMaker | None = None,
) -> Any:
    """The contribution of each parameter to the tangent kernel, in one pass.

    Arguments and errors are as in `eqtangents.empirical_ntk`.

    **Returns:** a tree with the structure of the parameters, a kernel (for several
    outputs a tree of them) for each. A layer's is the sum over its leaves.
    """
    options = checked_options(
        trace_axes, diagonal_axes, "structured", chunk_size, by_leaf=True
    )
    network, x1, x2 = checked_network(model, x1, x2, params, trainable, state)
    found = divided_tangents(network, x1, x2, options, mesh)
    outputs, treedef = jax.tree.flatten(found, is_leaf=is_contributions)
    by_leaf = zip(*(terms.arrays for terms in outputs), strict=True)
    leaves = [jax.tree.unflatten(treedef, kernels) for kernels in by_leaf]
    return jax.tree.unflatten(jax.tree.structure(network.params), leaves)
