"""Options of the empirical functions: their types, and how they are checked."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict, get_args

import equinox as eqx

from eqtangents._arguments import checked_choice, checked_integer
from eqtangents._parameters import Trainable
from eqtangents._trees import Batch, Params
from eqtangents.empirical._batches import checked_axes, checked_batches
from eqtangents.empirical._choice import Implementation
from eqtangents.empirical._evaluate import KernelOptions
from eqtangents.empirical._network import Network, check_model


class OutputOptions(TypedDict, total=False):
    """Which outputs are compared, and the state of the layers."""

    state: eqx.nn.State | None
    trace_axes: int | Sequence[int] | None
    diagonal_axes: int | Sequence[int]


class ParameterOptions(OutputOptions, total=False):
    """Which arrays are differentiated in, and how many rows at a time, as well."""

    trainable: Trainable
    chunk_size: int | None


class WayOptions(ParameterOptions, total=False):
    """Which way to the kernel is taken, as well."""

    implementation: Implementation


def checked_network(
    model: Callable[..., Any],
    x1: Batch,
    x2: Batch | None,
    params: Params | None,
    trainable: Trainable,
    state: eqx.nn.State | None,
) -> tuple[Network, Batch, Batch | None]:
    """The network and both batches, checked."""
    check_model(model, params, state, x1)
    network = Network(model, params, trainable, state)
    return network, *checked_batches(x1, x2)


def checked_options(
    trace_axes: int | Sequence[int] | None,
    diagonal_axes: int | Sequence[int],
    implementation: Implementation = "auto",
    chunk_size: int | None = None,
    *,
    by_leaf: bool = False,
) -> KernelOptions:
    """All options, checked."""
    implementation = checked_choice(
        "implementation", implementation, get_args(Implementation)
    )
    if chunk_size is not None:
        chunk_size = checked_integer(
            "chunk_size",
            chunk_size,
            1,
            "So many rows of the Jacobian are computed at a time: leave it out to have "
            "it chosen.",
        )
    traced = checked_axes("trace_axes", trace_axes)
    diagonal = checked_axes("diagonal_axes", diagonal_axes)
    return KernelOptions(traced, diagonal or (), implementation, chunk_size, by_leaf)
