"""Rules that act on each entry alone: affine maps, nonlinearities, joined branches."""

import abc
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from eqtangents._types import Scalar
from eqtangents.covariance._covariance import (
    AbstractCovariance,
    Outline,
    new_source,
)
from eqtangents.covariance._frame import Block, Evaluation, Frame, Rule
from eqtangents.covariance._gathered import on_common_canvas
from eqtangents.covariance._pair import Moments, Pair, deviation, summed_gap


class AbstractDual(eqx.Module):
    """Gaussian expectations of a nonlinearity: its dual activation.

    What they need of the variances is computed by `ends`, once for each example and
    position, outside of all loops over pairs.
    """

    @abc.abstractmethod
    def ends(self, variance: Float[Array, "n *size"]) -> PyTree[Float[Array, "n ..."]]:
        """What `__call__` needs to know of the variance at either end of a pair.

        Arrays of the shape of the variances, or many such in one array
        `(n, terms, *size)`, which `__call__` is given as a list.
        """

    @abc.abstractmethod
    def __call__(
        self, pair: Pair, left: PyTree[Array], right: PyTree[Array]
    ) -> Moments:
        """`E[f(u) f(v)]` and `E[f'(u) f'(v)]` for centred Gaussian `u, v`."""

    @abc.abstractmethod
    def diagonal(self, variance: Float[Array, "n *size"]) -> Float[Array, "n *size"]:
        """`E[f(u)^2]`."""


class Affine(AbstractCovariance):
    r"""Fresh weights and biases: $K' = a K + b$, $T' = a T + g K + h$.

    The two terms of the tangent kernel that are not inherited are the gradients with
    respect to the new weights, `g K`, and to the new biases, `h`. The output's channels
    are independent Gaussians if each mixes infinitely many of the input's.
    """

    leaks = True

    def __init__(
        self,
        upstream: AbstractCovariance,
        *,
        scale: Scalar,
        shift: Scalar,
        weight_gradient: Scalar,
        bias_gradient: Scalar,
        channels: int,
        gaussian: bool = True,
    ):
        """Apply to a covariance."""
        self.upstream = upstream
        self.scale, self.shift = scale, shift
        self.weight_gradient, self.bias_gradient = weight_gradient, bias_gradient
        self.outline = upstream.outline.replace(
            channels=channels,
            gaussian=gaussian,
            sources=new_source(),
            centred=True,
            trainable=True,
            exchangeable=True,
            gained=False,
            diagonal=False,
        )

    def bind(self, frame: Frame) -> Rule:
        """Apply entry by entry."""
        upstream = frame.bind(self.upstream)
        gap_of = self._gap_rule(frame)

        def rule(at: Evaluation) -> Block:
            block = at(upstream)
            nngp, ntk = block.nngp, block.ntk
            scale, shift, weight_gradient, bias_gradient = (
                jnp.asarray(constant, nngp.dtype)
                for constant in (
                    self.scale,
                    self.shift,
                    self.weight_gradient,
                    self.bias_gradient,
                )
            )
            if frame.wants_ntk:
                fresh = weight_gradient * nngp + bias_gradient
                ntk = fresh if ntk is None else scale * ntk + fresh
            return Block(scale * nngp + shift, ntk, gap_of(at, block))

        return rule

    def _gap_rule(
        self, frame: Frame
    ) -> Callable[[Evaluation, Block], Float[Array, "..."] | None]:
        r"""The gap of the sum of the scaled input and a constant, the bias.

        With $\tan\phi = \sigma_b / (\sqrt{a} s)$ the constant adds
        $\sigma \sigma' (1 - \cos(\phi - \phi'))$, which is a square.
        """
        if not frame.tracks_gaps(self):
            return lambda at, block: None
        biased = eqx.is_array(self.shift) or self.shift != 0
        handle = frame.ends(self._half_angles(frame), 0, 0.0) if biased else None

        def rule(at: Evaluation, block: Block) -> Float[Array, "..."] | None:
            if block.gap is None:
                return None
            scale = lax.stop_gradient(jnp.asarray(self.scale, block.gap.dtype))
            gap = scale * block.gap
            if handle is None:
                return gap
            (sine, cosine), (other_sine, other_cosine) = at.fields[handle]
            root = sine * other_cosine - cosine * other_sine
            return gap + root * root

        return rule

    def _half_angles(
        self, frame: Frame
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        r"""Sine and cosine of $\phi / 2$, times the root of $\sqrt{2} \sigma$."""
        before = deviation(frame.scope.variance(self.upstream))
        after = deviation(frame.scope.variance(self))
        scale, shift = (
            jnp.asarray(c, after.std.dtype) for c in (self.scale, self.shift)
        )
        cosine = jnp.sqrt(scale) * before.std * after.reciprocal
        half = jnp.sqrt(0.5 * (1 + lax.min(cosine, jnp.ones_like(cosine))))
        sine = 0.5 * jnp.sqrt(shift) * after.reciprocal / half
        size = jnp.sqrt(2**0.5 * after.std)
        return lax.stop_gradient((size * sine, size * half))


class Scaled(AbstractCovariance):
    """A factor for all positions, for each of them, or for each of every example.

    `K'[p, p'] = f[p] K[p, p'] f[p']`.
    """

    def __init__(
        self,
        upstream: AbstractCovariance,
        factor: Scalar | Float[Array | np.ndarray, "..."],
    ):
        """Multiply outputs by a number, or `(*size)` or `(n, *size)` of them."""
        self.upstream, self.factor, self.outline = upstream, factor, upstream.outline

    def bind(self, frame: Frame) -> Rule:
        """Multiply by the factors of both ends."""
        upstream = frame.bind(self.upstream)
        if not jnp.ndim(self.factor):

            def scalar_rule(at: Evaluation) -> Block:
                factor = jnp.asarray(self.factor, frame.scope.dtype)
                return at(upstream).scaled(factor * factor)

            return scalar_rule

        n = frame.scope.n1 + frame.scope.n2
        factor = jnp.asarray(self.factor, frame.scope.dtype)
        factors = jnp.broadcast_to(factor, (n, *self.outline.size))
        handle = frame.ends(factors, self.outline.rank, 0.0)

        def rule(at: Evaluation) -> Block:
            left, right = at.fields[handle]
            block = at(upstream)._replace(gap=None)  # Some factors may be negative.
            return block.scaled(left * right)

        return rule


class Nonlinear(AbstractCovariance):
    """A nonlinearity, applied to each channel of a Gaussian."""

    leaks = True

    def __init__(self, upstream: AbstractCovariance, dual: AbstractDual):
        """Apply a dual activation to a covariance."""
        self.upstream, self.dual = upstream, dual
        self.outline = upstream.outline.replace(
            gaussian=False, centred=False, gained=False, diagonal=False
        )

    def bind(self, frame: Frame) -> Rule:
        """Look up the variances of both ends, then apply the dual entry by entry."""
        if frame.same and frame.canvas is None:
            variance = frame.bind(self.upstream)

            def variance_rule(at: Evaluation) -> Block:
                return Block(self.dual.diagonal(at(variance).nngp), None)

            return variance_rule

        # Whatever asks for more displacements of one covariance comes first: then those
        # of the others are at hand.
        if frame.same:
            upstream, ends = frame.bind(self.upstream), self.ends(frame)
        else:
            ends, upstream = self.ends(frame), frame.bind(self.upstream)
        tolerance = frame.tolerance(self.outline.rank)

        def moments(at: Evaluation, block: Block) -> Moments:
            return self.dual(Pair(block.nngp, block.gap, tolerance(at)), *ends(at))

        if not frame.tracks_gaps(self):

            def rule(at: Evaluation) -> Block:
                block = at(upstream)
                return self._image(block, moments(at, block), None)

            return rule

        before, after = frame.with_gaps(self.upstream), frame.with_gaps(self)
        deviations = frame.deviations(self)

        def rule_with_gap(at: Evaluation) -> Block:
            block = at(upstream)
            block = before(at, block) if block.gap is None else block
            found = moments(at, block)
            gap = found.gap_between(*at.fields[deviations])
            return after(at, self._image(block, found, gap))

        return rule_with_gap

    def _image(
        self, block: Block, moments: Moments, gap: Float[Array, "..."] | None
    ) -> Block:
        value, derivative, *_ = moments
        if block.ntk is None:
            return Block(value, None, gap)
        if not self.upstream.outline.gained:
            return Block(value, derivative * block.ntk, gap)
        # By E u f'(u) v f'(v) = E f(u) f(v), for homogeneous functions.
        return Block(value, derivative * (block.ntk - block.nngp) + value, gap)

    def ends(self, frame: Frame) -> Callable[[Evaluation], tuple[Any, Any]]:
        """Register what the dual knows of the variances, and how to find it again."""
        variance = frame.scope.variance(self.upstream)
        handle = frame.ends(self.dual.ends(variance), self.outline.rank, 1.0)
        pairs = len(frame.scope.pairs(frame.same))
        ndim = pairs + self.outline.rank

        def look(at: Evaluation) -> tuple[Any, Any]:
            return jax.tree.map(
                lambda end: end if end.ndim == ndim else unstacked(end, pairs),
                at.fields[handle],
            )

        return look


def at_equal_inputs(dual: AbstractDual, variance: Float[Array, "n *size"]) -> Moments:
    """The expectations of `f(u)**2` and `f'(u)**2`, by those of pairs."""
    ends = jax.tree.map(
        lambda end: end if end.ndim == variance.ndim else unstacked(end, 1),
        dual.ends(variance),
    )
    one = Pair(variance, tolerance=jnp.asarray(jnp.inf, variance.dtype))
    return dual(one, ends, ends)


def unstacked(stack: Float[Array, "..."], axis: int) -> list[Float[Array, "..."]]:
    """The parts along an axis. Gradients of `split` are joined, not added up."""
    parts = lax.split(stack, (1,) * stack.shape[axis], axis)
    return [lax.squeeze(part, (axis,)) for part in parts]


class Sum(AbstractCovariance):
    """Sum of uncorrelated branches: kernels add."""

    def __init__(self, branches: Sequence[AbstractCovariance]):
        """Add covariances of one size."""
        self.branches = tuple(on_common_canvas(list(branches)))
        outlines = [branch.outline for branch in self.branches]
        self.outline = _joined(outlines).replace(
            gaussian=all(o.gaussian for o in outlines),
            centred=all(o.centred for o in outlines),
            diagonal=all(o.diagonal for o in outlines),
        )

    def bind(self, frame: Frame) -> Rule:
        """Add blocks."""
        return _sum_rule(self, frame, self.branches, [1.0] * len(self.branches))


class Product(AbstractCovariance):
    r"""Product of uncorrelated branches: $K = \prod_i K_i$, $T$ by the product rule."""

    def __init__(self, branches: Sequence[AbstractCovariance]):
        """Multiply covariances of one size."""
        self.branches = tuple(on_common_canvas(list(branches)))
        outlines = [branch.outline for branch in self.branches]
        self.outline = _joined(outlines).replace(
            gaussian=False,
            centred=any(o.centred for o in outlines),
            diagonal=any(o.diagonal for o in outlines),
        )

    def bind(self, frame: Frame) -> Rule:
        """Multiply blocks one after the other."""
        rules = [frame.bind(branch) for branch in self.branches]

        def multiply(a: Block, b: Block) -> Block:
            terms = [
                nngp * ntk
                for nngp, ntk in ((a.nngp, b.ntk), (b.nngp, a.ntk))
                if ntk is not None
            ]
            ntk = functools.reduce(operator.add, terms) if terms else None
            gap = None
            if a.gap is not None and b.gap is not None:  # Of k l and (k + g) (l + h).
                product = lax.stop_gradient(a.nngp) * b.gap + a.gap * b.nngp
                gap = lax.stop_gradient(product + a.gap * b.gap)
            return Block(a.nngp * b.nngp, ntk, gap)

        return lambda at: functools.reduce(multiply, [at(rule) for rule in rules])


class ChannelConcat(AbstractCovariance):
    """Branches side by side along the channels: the mean of kernels, by width."""

    def __init__(self, branches: Sequence[AbstractCovariance]):
        """Concatenate covariances of one size."""
        self.branches = tuple(on_common_canvas(list(branches)))
        outlines = [branch.outline for branch in self.branches]
        self.outline = _joined(outlines).replace(
            channels=sum(o.channels for o in outlines),
            gaussian=False,
            exchangeable=False,
            centred=all(o.centred for o in outlines),
            diagonal=all(o.diagonal for o in outlines),
        )

    def bind(self, frame: Frame) -> Rule:
        """Average blocks, weighted by the branches' shares of the channels."""
        shares = [b.outline.channels / self.outline.channels for b in self.branches]
        return _sum_rule(self, frame, self.branches, shares)


def _sum_rule(
    node: AbstractCovariance,
    frame: Frame,
    branches: Sequence[AbstractCovariance],
    shares: Sequence[float],
) -> Rule:
    """Add the blocks of branches, in some proportions."""
    rules = [frame.bind(branch) for branch in branches]
    deviations = None
    if frame.tracks_gaps(node):
        deviations = [frame.deviations(one) for one in (*branches, node)]

    def gap_of(at: Evaluation, gaps: list[Any]) -> Float[Array, "..."] | None:
        if deviations is None or any(gap is None for gap in gaps):
            return None
        *stds, total = (at.fields[handle] for handle in deviations)
        roots = [share**0.5 for share in shares]
        stds = [(r * a, r * b) for r, (a, b) in zip(roots, stds, strict=True)]
        return summed_gap(weighted(gaps), stds, total)

    def weighted(leaves: list[Any]) -> list[Any]:
        return [
            leaf if share == 1 else share * leaf
            for share, leaf in zip(shares, leaves, strict=True)
            if leaf is not None
        ]

    def rule(at: Evaluation) -> Block:
        nngps, ntks, gaps = map(list, zip(*(at(one) for one in rules), strict=True))
        ntks = weighted(ntks)
        return Block(
            functools.reduce(operator.add, weighted(nngps)),
            functools.reduce(operator.add, ntks) if ntks else None,
            gap_of(at, gaps),
        )

    return rule


def _joined(outlines: Sequence[Outline]) -> Outline:
    """The common size, on a canvas that holds every branch."""
    return outlines[0].replace(
        canvas=tuple(map(max, zip(*(o.canvas for o in outlines), strict=True))),
        rigid=tuple(map(any, zip(*(o.rigid for o in outlines), strict=True))),
        trainable=any(o.trainable for o in outlines),
        gained=any(o.gained for o in outlines),
        exchangeable=all(o.exchangeable for o in outlines),
        sources=frozenset().union(*(o.sources for o in outlines)),
        mask=_any_mask(outlines),
    )


def _any_mask(outlines: Sequence[Outline]) -> Bool[Array, "n *size"] | None:
    """The positions that any of the branches has."""
    masks = [o.mask for o in outlines]
    if all(mask is masks[0] for mask in masks):
        return masks[0]
    known = [mask for mask in masks if mask is not None]
    return functools.reduce(operator.or_, known) if len(known) == len(masks) else None


def independent(branches: Sequence[AbstractCovariance]) -> bool:
    """Whether no two branches come from the same weights or inputs."""
    sources = [branch.outline.sources for branch in branches]
    return sum(map(len, sources)) == len(frozenset().union(*sources))


def uncorrelated(branches: Sequence[AbstractCovariance]) -> bool:
    """Whether products of different branches have mean zero."""
    shifted = sum(not branch.outline.centred for branch in branches)
    return independent(branches) and shifted <= 1
