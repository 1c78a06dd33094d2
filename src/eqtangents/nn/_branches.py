"""Splitting a network into branches, and joining them."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._types import Count, plain
from eqtangents.covariance import (
    AbstractCovariance,
    BranchProduct,
    BranchSum,
    ChannelConcat,
    SpatialConcat,
    independent,
    uncorrelated,
)
from eqtangents.nn._inputs import (
    Extras,
    SignalT,
    cleared,
    is_signal,
    unwrap,
    values_of,
)
from eqtangents.nn._layer import (
    AbstractLayer,
    AbstractParameterless,
    Covariances,
    LayerError,
    check_not_vanishing,
    many_inputs,
)


Copied = TypeVar("Copied")  # example, or a tuple of several


class FanOut(AbstractParameterless):
    """`n` copies of the input, for as many branches."""

    n: Count = eqx.field(static=True)

    def __init__(self, n: Count):
        """Set the number of copies."""
        self.n = plain(n)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Copied, *, key: PRNGKeyArray | None = None
    ) -> tuple[Copied, ...]:
        """A tuple of `n` times the input."""
        return (cleared(x),) * self.n

    def propagate(self, covariance: Covariances) -> tuple[Covariances, ...]:
        """A tuple of `n` times the covariance."""
        return (covariance,) * self.n


class FanInSum(AbstractParameterless):
    """The sum of branches, whose kernels add.

    All branches but one must end in weights of their own, or their sum would have a
    covariance that the branches' covariances do not tell.
    """

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Sequence[SignalT], *, key: PRNGKeyArray | None = None
    ) -> SignalT:
        return added(self, x)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        return sum_of(self, covariance)


def added(layer: AbstractLayer, x: Any) -> Any:
    """The sum of branches, for the layer that joins them."""
    return combined(layer, x, operator.add)


def combined(layer: AbstractLayer, x: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """What a function of two numbers makes of the values of branches."""
    values, extras = _of_equal_shape(layer, x)
    return extras.rewrap(functools.reduce(combine, values), extras.mask)


def sum_of(layer: AbstractLayer, covariance: Covariances) -> AbstractCovariance:
    """The covariance of that sum."""
    return BranchSum(_joinable(layer, covariance))


class FanInProd(AbstractParameterless):
    r"""The product of independent branches.

    $$K' = \prod_i K_i, \qquad T' = \sum_i T_i \prod_{j \ne i} K_j$$

    All branches but one must have weights of their own. A branch that is the input of
    the network, or a `Prepare` of it, may have a single channel, by which all channels
    are multiplied: what is Gaussian stays so.
    """

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Sequence[SignalT], *, key: PRNGKeyArray | None = None
    ) -> SignalT:
        values, extras = _of_equal_shape(self, x, one_channel=True)
        return extras.rewrap(functools.reduce(operator.mul, values), extras.mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        branches = many_inputs(self, covariance)
        factors = [b for b in branches if b.examples is not None and _is_single(b)]
        others = [b for b in branches if not any(b is one for one in factors)]
        known = 0 if factors and len(others) == 1 else None
        _check_covariances(self, branches, but=known)
        for branch in branches:
            check_not_vanishing(self, branch)
        if known is not None:
            return BranchProduct(branches, scaled=others[0])
        if not independent(branches):
            raise LayerError(
                self,
                "multiplies branches that are correlated, so that their kernels do not "
                "tell the kernel of the product. Give all branches but one a `Linear` "
                "or `Conv` of their own.",
            )
        return BranchProduct(branches)


class FanInConcat(AbstractParameterless):
    """Branches one after the other along an axis of one example.

    Along the channels, axis 0, kernels are averaged, weighted by the branches' numbers
    of channels. Along a spatial axis, positions of different branches have covariance
    zero: there, all branches but one must end in weights of their own.
    """

    axis: int = eqx.field(static=True)

    def __init__(self, axis: int = 0):
        """Set the axis: 0 for channels, 1 for the first spatial axis, and so on."""
        self.axis = plain(axis)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Sequence[SignalT], *, key: PRNGKeyArray | None = None
    ) -> SignalT:
        axis = self._axis(values_of(x[0]).ndim - 1)
        values, extras = _of_equal_shape(self, x, but=axis)
        masks = [unwrap(one)[1].mask for one in x]
        mask = extras.mask
        if axis and any(one is not None for one in masks):
            known = [
                jnp.ones(value.shape[1:], bool) if one is None else one
                for one, value in zip(masks, values, strict=True)
            ]
            mask = jnp.concatenate(known, axis - 1)
        return extras.rewrap(jnp.concatenate(values, axis), mask)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        branches = many_inputs(self, covariance)
        axis = self._axis(branches[0].outline.rank)
        if axis:
            return SpatialConcat(_joinable(self, branches, but=axis), axis - 1)
        _check_covariances(self, branches, but=0)
        return ChannelConcat(branches)

    def _axis(self, rank: int) -> int:
        if not -rank - 1 <= self.axis <= rank:
            raise LayerError(
                self,
                f"`axis={self.axis}`, but the branches have axis 0 for channels and "
                f"{rank} spatial axes after it.",
            )
        return self.axis % (rank + 1)


def _is_single(branch: AbstractCovariance) -> bool:
    return branch.outline.channels == 1


def _of_equal_shape(
    layer: AbstractLayer, x: Any, but: int | None = None, *, one_channel: bool = False
) -> tuple[list[Float[Array, "..."]], Extras]:
    """The values of the branches, and extras with the positions that any one has.

    `one_channel`: whether they may have a single channel where others have several.
    """
    if is_signal(x) or not len(x):
        raise LayerError(layer, "takes a tuple with the outputs of several branches.")
    values, sides = zip(*map(unwrap, x), strict=True)
    shapes = [value.shape for value in values]
    several = {shape[0] for shape in shapes if shape} - {1}
    single = one_channel and len(several) == 1
    _check_shapes_of_branches(layer, shapes, 0 if single else but)
    masks = [extras.mask for extras in sides if extras.mask is not None]
    mask = None
    if but in (None, 0) and len(masks) == len(values):
        mask = functools.reduce(operator.or_, masks)
    return list(values), Extras(mask, sides[0].adjacency)


def _joinable(
    layer: AbstractLayer, covariance: Covariances, but: int | None = None
) -> tuple[AbstractCovariance, ...]:
    """The branches, if their outputs have one shape and are uncorrelated."""
    branches = many_inputs(layer, covariance)
    _check_covariances(layer, branches, but)
    if not uncorrelated(branches):
        raise LayerError(
            layer,
            "joins branches that are correlated, so that their kernels do not tell "
            "the kernel of the result. All branches but one must end in weights of "
            "their own: put a `Linear` or `Conv` at their ends.",
        )
    return branches


def _check_covariances(
    layer: AbstractLayer, branches: Sequence[AbstractCovariance], but: int | None
) -> None:
    shapes = [(b.outline.channels, *b.outline.size) for b in branches]
    _check_shapes_of_branches(layer, shapes, but)


def _check_shapes_of_branches(
    layer: AbstractLayer, shapes: Sequence[tuple[int, ...]], but: int | None
) -> None:
    alike = {tuple(n for axis, n in enumerate(s) if axis != but) for s in shapes}
    if len(alike) > 1:
        where = "" if but is None else f" but for axis {but}"
        raise LayerError(
            layer,
            f"joins branches whose outputs have shapes {', '.join(map(str, shapes))}, "
            f"but must be alike{where}, `(channels, *spatial)`. Give the branches the "
            "same strides, paddings and numbers of channels.",
        )
