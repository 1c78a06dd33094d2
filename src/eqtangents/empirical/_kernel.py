"""Kernels of networks at the parameters they have."""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, Shaped

from eqtangents._linearization import Trainable
from eqtangents.empirical._choice import (
    Candidate,
    Explanation,
    Implementation,
    candidates,
    chosen,
)
from eqtangents.empirical._compute import from_products, from_rows
from eqtangents.empirical._network import (
    Network,
    check_alike,
    count_examples,
    example_of,
    parameter_names,
    size_of,
)
from eqtangents.empirical._pairing import Pairing, pairing


Batch = PyTree[Shaped[Array, "..."]]


class EmpiricalKernel(eqx.Module):
    """The two kernels of a network at the parameters it has.

    Axes are those of examples, then of outputs, `(n1, n2, *outputs1, *outputs2)`; of a
    network with several outputs each is a tree of kernels, one for each output.
    """

    nngp: PyTree[Float[Array, "..."]]
    ntk: PyTree[Float[Array, "..."]]


class _Terms(eqx.Module):
    """What parts of the parameters contribute to a kernel."""

    arrays: list[Array]


def empirical_ntk(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: PyTree | None = None,
    *,
    trainable: Trainable = eqx.is_inexact_array,
    trace_axes: Sequence[int] = (),
    diagonal_axes: Sequence[int] = (),
    implementation: Implementation = "auto",
    chunk_size: int | None = None,
) -> PyTree[Float[Array, "..."]]:
    r"""The neural tangent kernel of one network, at the parameters it has.

    $$\Theta_{iajb} = \sum_p \partial_{\theta_p} f_a(x_i)\,
    \partial_{\theta_p} f_b(x'_j)$$

    **Arguments:**

    - `model`: a module that maps one example; or, if `params` are given, a function
        `f(params, example)`. It is mapped over the examples of a batch. For a function
        that mixes examples, take the whole batch as one example, `x[None]`.
    - `x1`, `x2`: batches, with a leading axis of examples: arrays, or trees of them (an
        example with its random key, say). Without `x2`, of `x1` with itself.
    - `params`: the parameters of a function: a tree whose floating-point and complex
        arrays are differentiated in. A complex one counts as two real ones.
    - `trainable`: which leaves of a module are parameters: a test of leaves, or a tree
        of booleans. In networks of `eqtangents.nn`, hyperparameters that are arrays are
        leaves like others.
    - `trace_axes`: axes of one example's output over which to average the diagonal; the
        kernel does not have them. `trace_axes=(0,)` (the channels) gives what
        approaches `eqtangents.ntk` for wide networks of `eqtangents.nn`.
    - `diagonal_axes`: axes of which only equal indices are compared.
    - `implementation`: how. `"jacobian"` contracts Jacobians; `"structured"` uses how
        parameters enter, layer by layer where that is cheaper; `"vector_products"`
        multiplies the kernel with all columns of the identity; `"auto"` takes the one
        with the least estimated time that fits in memory, see
        `eqtangents.explain_empirical_ntk`.
    - `chunk_size`: how many rows of the Jacobian (an output of an example each) of
        either batch, or columns of the kernel, to treat at a time. Without, as many as
        are estimated to take 2 GiB.

    **Returns:** an array with axes `(n1, n2, *diagonal, *outputs1, *outputs2)`, outputs
    without traced and diagonal axes; for several outputs a tree of them, each output
    with itself.

    **Raises:** `ValueError` if there is nothing to train, the batches do not fit each
    other, an axis does not exist or is named twice, or the outputs are complex.

    **Cost:** see `eqtangents.explain_empirical_ntk`.

    **Source:** Jacot et al. 2018, arXiv:1806.07572; Novak et al. 2022,
    arXiv:2206.08720.
    """
    network = Network(model, params, trainable)
    found = _terms(
        network,
        *checked_batches(x1, x2),
        tuple(trace_axes),
        tuple(diagonal_axes),
        implementation,
        _checked(chunk_size),
    )
    return jax.tree.map(
        lambda terms: reduce(operator.add, terms.arrays), found, is_leaf=_is_terms
    )


def empirical_ntk_by_leaf(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: PyTree | None = None,
    *,
    trainable: Trainable = eqx.is_inexact_array,
    trace_axes: Sequence[int] = (),
    diagonal_axes: Sequence[int] = (),
    chunk_size: int | None = None,
) -> PyTree[Float[Array, "..."]]:
    """What each parameter contributes to the neural tangent kernel, in one pass.

    Arguments and errors are those of `eqtangents.empirical_ntk`.

    **Returns:** a tree with the structure of the parameters, a kernel (for several
    outputs a tree of them) for each. A layer's is the sum over its leaves.
    """
    network = Network(model, params, trainable)
    found = _terms(
        network,
        *checked_batches(x1, x2),
        tuple(trace_axes),
        tuple(diagonal_axes),
        "structured",
        _checked(chunk_size),
    )
    outputs, treedef = jax.tree.flatten(found, is_leaf=_is_terms)
    by_leaf = zip(*(terms.arrays for terms in outputs), strict=True)
    leaves = list(map(treedef.unflatten, by_leaf))
    return jax.tree.unflatten(jax.tree.structure(network.params), leaves)


@eqx.filter_jit
def empirical_nngp(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: PyTree | None = None,
    *,
    trace_axes: Sequence[int] = (),
    diagonal_axes: Sequence[int] = (),
) -> PyTree[Float[Array, "..."]]:
    r"""Products of the outputs of one network, at the parameters it has.

    $$K_{iajb} = f_a(x_i)\, \overline{f_b(x'_j)}$$

    Averaged over random networks, or many outputs (by `trace_axes`), it is an estimate
    of `eqtangents.nngp`. Arguments, result and errors are those of
    `eqtangents.empirical_ntk`.
    """
    x1, x2 = checked_batches(x1, x2)
    function = model if params is None else jax.tree_util.Partial(model, params)
    outputs1 = jax.vmap(function)(x1)
    outputs2 = outputs1 if x2 is None else jax.vmap(function)(x2)

    def of(one: Array, other: Array) -> Array:
        found = pairing(one.shape[1:], trace_axes, diagonal_axes)
        rows = found.grouped(one), found.grouped(other)
        products = jnp.einsum("idtf,jdtg->ijdfg", rows[0], jnp.conj(rows[1]))
        return found.assembled(products)

    return jax.tree.map(of, outputs1, outputs2)


def empirical_kernel(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: PyTree | None = None,
    *,
    trainable: Trainable = eqx.is_inexact_array,
    trace_axes: Sequence[int] = (),
    diagonal_axes: Sequence[int] = (),
    implementation: Implementation = "auto",
    chunk_size: int | None = None,
) -> EmpiricalKernel:
    """Both kernels of one network, at the parameters it has.

    Arguments and errors are those of `eqtangents.empirical_ntk`.
    """
    axes = {"trace_axes": trace_axes, "diagonal_axes": diagonal_axes}
    nngp = empirical_nngp(model, x1, x2, params, **axes)
    ntk = empirical_ntk(
        model,
        x1,
        x2,
        params,
        trainable=trainable,
        implementation=implementation,
        chunk_size=chunk_size,
        **axes,
    )
    return EmpiricalKernel(nngp, ntk)


def explain_empirical_ntk(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None = None,
    params: PyTree | None = None,
    *,
    trainable: Trainable = eqx.is_inexact_array,
    trace_axes: Sequence[int] = (),
    diagonal_axes: Sequence[int] = (),
    implementation: Implementation = "auto",
    chunk_size: int | None = None,
) -> PyTree[Explanation]:
    """How `eqtangents.empirical_ntk` would compute a kernel, and what it would cost.

    Costs are estimated from shapes: floating-point operations and bytes moved, taken
    together as a time at 8 operations to the byte; operations of vector products, which
    work on one column at a time, count four times. Nothing is compiled or run.

    Arguments and errors are those of `eqtangents.empirical_ntk`.

    **Returns:** an `Explanation` to print; for several outputs a tree of them.
    """
    network = Network(model, params, trainable)
    x1, x2 = checked_batches(x1, x2)
    outputs, treedef = _outputs(network, x1)
    explanations = []
    for output in outputs:
        found = pairing(output.shape, trace_axes, diagonal_axes)
        ways = candidates(network, x1, x2, found, _checked(chunk_size))
        picked = chosen(ways, implementation)
        explanations.append(Explanation(parameter_names(network), ways, picked))
    return treedef.unflatten(explanations)


@eqx.filter_jit
def _terms(
    network: Network,
    x1: Batch,
    x2: Batch | None,
    trace_axes: tuple[int, ...],
    diagonal_axes: tuple[int, ...],
    implementation: Implementation,
    chunk_size: int | None,
) -> PyTree[_Terms]:
    """Contributions to the kernel of each output, by parameter where they are known."""
    outputs, treedef = _outputs(network, x1)
    found = []
    for i, output in enumerate(outputs):
        paired = pairing(output.shape, trace_axes, diagonal_axes)
        ways = candidates(network, x1, x2, paired, chunk_size)
        way = chosen(ways, implementation)
        terms = _computed(network, x1, x2, i, paired, way)
        found.append(
            _Terms([paired.assembled(term).astype(output.dtype) for term in terms])
        )
    return treedef.unflatten(found)


def _computed(
    network: Network,
    x1: Batch,
    x2: Batch | None,
    output: int,
    paired: Pairing,
    way: Candidate,
) -> list[Array]:
    size = way.chunk_size
    if way.name == "vector_products":
        other = x1 if x2 is None else x2
        return [from_products(network, x1, other, output, paired, size)]
    structure, leaves = way.structure, network.leaves
    parts = from_rows(structure, leaves, x1, x2, output, paired, size)
    n1, n2 = size_of(x1), size_of(x1 if x2 is None else x2)
    _, d, _, f = paired.rows(n1)
    terms: dict[int, Array] = {}
    for part, owner in enumerate(network.owner):
        term = parts.get(part, jnp.zeros((n1, n2, d, f, f)))
        terms[owner] = terms[owner] + term if owner in terms else term
    return list(terms.values())


def _is_terms(node: Any) -> bool:
    return isinstance(node, _Terms)


def _outputs(network: Network, x1: Batch) -> tuple[list[jax.ShapeDtypeStruct], Any]:
    """Shapes of the outputs for one example."""
    shape = jax.eval_shape(network, network.leaves, example_of(x1))
    return jax.tree.flatten(shape)


def checked_batches(x1: Batch, x2: Batch | None) -> tuple[Batch, Batch | None]:
    """Both as arrays, and checked."""
    x1, x2 = jax.tree.map(jnp.asarray, (x1, x2))
    count_examples("x1", x1)
    if x2 is not None and jax.tree.leaves(x2):
        count_examples("x2", x2)
        check_alike(x1, x2)
        return x1, x2
    return x1, None


def _checked(chunk_size: int | None) -> int | None:
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(
            f"`chunk_size` is {chunk_size}, but at least one row of the Jacobian must "
            "be computed at a time. Leave it out to have it chosen."
        )
    return chunk_size
