"""Kernels by sampling networks of finite width."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypedDict, Unpack, get_args, overload

from jaxtyping import Array, PRNGKeyArray

from eqtangents._arguments import check_key, checked_choice, checked_integer, described
from eqtangents._gram._placement import (
    MeshOrMaker,
    mesh_of,
    without_axis_types,
)
from eqtangents._kernel_habits import FINITE_HABITS
from eqtangents._kernel_pair import Kernel
from eqtangents._parameters import Trainable
from eqtangents._sampling import (
    Net,
    Sampled,
    WhichKernels,
    check_net,
    running_estimates,
)
from eqtangents._signatures import names_checked
from eqtangents._trees import Batch, One, Tree
from eqtangents.empirical import Estimate
from eqtangents.empirical._batches import checked_axes, checked_batches
from eqtangents.nn import Graph, Masked


_AT_LEAST = (2, "A standard error needs at least 2 samples.")


class SamplingOptions(TypedDict, total=False):
    """Which outputs are compared, and how the samples are taken."""

    trainable: Trainable
    trace_axes: int | Sequence[int] | None
    diagonal_axes: int | Sequence[int]
    batch_size: int
    mesh: MeshOrMaker | None
    progress: Callable[[int], None] | None


@overload
def monte_carlo(
    net: Net,
    x1: One | Masked | Graph,
    x2: One | Masked | Graph | None,
    key: PRNGKeyArray,
    n_samples: int,
    *,
    kernels: Literal["both"] = "both",
    **options: Unpack[SamplingOptions],
) -> Estimate[Kernel]: ...
@overload
def monte_carlo(
    net: Net,
    x1: One | Masked | Graph,
    x2: One | Masked | Graph | None,
    key: PRNGKeyArray,
    n_samples: int,
    *,
    kernels: Literal["nngp", "ntk"],
    **options: Unpack[SamplingOptions],
) -> Estimate[Array]: ...
@overload
def monte_carlo(
    net: Net,
    x1: Batch,
    x2: Batch | None,
    key: PRNGKeyArray,
    n_samples: int,
    *,
    kernels: Literal["both"] = "both",
    **options: Unpack[SamplingOptions],
) -> Estimate[Tree[Kernel]]: ...
@overload
def monte_carlo(
    net: Net,
    x1: Batch,
    x2: Batch | None,
    key: PRNGKeyArray,
    n_samples: int,
    *,
    kernels: Literal["nngp", "ntk"],
    **options: Unpack[SamplingOptions],
) -> Estimate[Tree[Array]]: ...
@names_checked(FINITE_HABITS)
def monte_carlo(
    net: Net,
    x1: Batch,
    x2: Batch | None,
    key: PRNGKeyArray,
    n_samples: int,
    *,
    kernels: WhichKernels = "both",
    trainable: Trainable = None,
    trace_axes: int | Sequence[int] | None = None,
    diagonal_axes: int | Sequence[int] = (),
    batch_size: int = 1,
    mesh: MeshOrMaker | None = None,
    progress: Callable[[int], None] | None = None,
) -> Estimate[Any]:
    r"""The kernels of a network, averaged over random parameters.

    As the network gets wider they approach `eqtangents.kernel`, which they agree with
    in shape, at the rate of one over the square root of width and samples.

    **Arguments:**

    - `net`: a network of `eqtangents.nn`, or any function of a key that returns a
        module, initialised, or a pair of a module and its state, as from
        `eqx.nn.make_with_state`.
    - `x1`, `x2`: batches, as for `eqtangents.kernel` or `eqtangents.empirical_ntk`;
        `None` for `x1` again, in the same passes: the values that a `Dropout` drops are
        drawn once for each example of a batch.
    - `key`: draws the parameters. The same key gives the same samples, whatever the
        batch size.
    - `n_samples`: how many networks to draw, at least 2.
    - `kernels`: `"both"`, or `"nngp"` or `"ntk"` alone. The first needs no derivative
        and costs far less.
    - `trainable`, `trace_axes`, `diagonal_axes`: as for `eqtangents.empirical_ntk`; by
        default averaged over the channels.
    - `batch_size`: how many networks to evaluate at a time, on each device.
    - `mesh`: devices to spread them over, along all of its axes, as many networks on
        each, up to one; or a function that makes the mesh. By default those over whose
        explicit axes a batch is split, if one is.
    - `progress`: is called with the number of samples drawn, after each batch.

    **Returns:** an `Estimate`, whose `mean` and `standard_error` are each an
    `eqtangents.Kernel`, or the array that was asked for; of a network with several
    outputs trees of them.

    **Raises:** `ValueError` if there are fewer than 2 samples; `TypeError` if an
    argument is of another kind.
    """
    count = checked_integer("n_samples", n_samples, *_AT_LEAST)
    (last,) = running_monte_carlo(
        net,
        x1,
        x2,
        key,
        [count],
        kernels=kernels,
        trainable=trainable,
        trace_axes=trace_axes,
        diagonal_axes=diagonal_axes,
        batch_size=batch_size,
        mesh=mesh,
        progress=progress,
    )
    return last


@overload
def running_monte_carlo(
    net: Net,
    x1: One | Masked | Graph,
    x2: One | Masked | Graph | None,
    key: PRNGKeyArray,
    n_samples: Iterable[int],
    *,
    kernels: Literal["both"] = "both",
    **options: Unpack[SamplingOptions],
) -> Iterator[Estimate[Kernel]]: ...
@overload
def running_monte_carlo(
    net: Net,
    x1: One | Masked | Graph,
    x2: One | Masked | Graph | None,
    key: PRNGKeyArray,
    n_samples: Iterable[int],
    *,
    kernels: Literal["nngp", "ntk"],
    **options: Unpack[SamplingOptions],
) -> Iterator[Estimate[Array]]: ...
@overload
def running_monte_carlo(
    net: Net,
    x1: Batch,
    x2: Batch | None,
    key: PRNGKeyArray,
    n_samples: Iterable[int],
    *,
    kernels: Literal["both"] = "both",
    **options: Unpack[SamplingOptions],
) -> Iterator[Estimate[Tree[Kernel]]]: ...
@overload
def running_monte_carlo(
    net: Net,
    x1: Batch,
    x2: Batch | None,
    key: PRNGKeyArray,
    n_samples: Iterable[int],
    *,
    kernels: Literal["nngp", "ntk"],
    **options: Unpack[SamplingOptions],
) -> Iterator[Estimate[Tree[Array]]]: ...
@names_checked(FINITE_HABITS)
def running_monte_carlo(
    net: Net,
    x1: Batch,
    x2: Batch | None,
    key: PRNGKeyArray,
    n_samples: Iterable[int],
    *,
    kernels: WhichKernels = "both",
    trainable: Trainable = None,
    trace_axes: int | Sequence[int] | None = None,
    diagonal_axes: int | Sequence[int] = (),
    batch_size: int = 1,
    mesh: MeshOrMaker | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Estimate[Any]]:
    """Estimates after some numbers of samples, the later ones from all before.

    Arguments and errors are as in `eqtangents.monte_carlo`, but `n_samples` are several
    numbers of samples at which to give an estimate, in any order.
    """
    check_net(net, x1, key)
    x1, x2 = checked_batches(x1, x2)
    check_key("`key`", key)
    if not isinstance(n_samples, Iterable):
        raise TypeError(
            f"`n_samples` is {described(n_samples)}, but must be several numbers of "
            "samples, `[10, 100]` say. For one, use `eqtangents.monte_carlo`."
        )
    counts = sorted({checked_integer("n_samples", n, *_AT_LEAST) for n in n_samples})
    if not counts:
        raise ValueError(
            "`n_samples` is empty, but must have at least one number of samples."
        )
    size = checked_integer("batch_size", batch_size, 1)
    kernels = checked_choice("kernels", kernels, get_args(WhichKernels))
    devices = without_axis_types(mesh_of(mesh, x1, x2))
    if progress is not None and not callable(progress):
        raise TypeError(
            f"`progress` is {described(progress)}, but must be a function of the "
            "number of samples drawn, `print` say."
        )
    traced = checked_axes("trace_axes", trace_axes)
    diagonal = checked_axes("diagonal_axes", diagonal_axes) or ()
    sampled = Sampled(net, x1, x2, trainable, kernels, traced, diagonal)
    return running_estimates(sampled, key, counts, size, devices, progress)
