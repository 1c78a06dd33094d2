"""The facts of a covariance that layers ask about before any entry is computed."""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any

from jaxtyping import Array, Bool, PyTree


_names = itertools.count()


def new_source() -> frozenset[int]:
    """A name for weights or inputs that nothing else comes from."""
    return frozenset([next(_names)])


@dataclasses.dataclass(frozen=True, eq=False)
class Outline:
    """The facts of a covariance, passed on from layer to layer.

    `size`: the positions of the layer's output.
    `canvas`: the smallest canvas that blocks can be asked for on.
    `fixed_canvas`: along which axes that canvas is the only one, because the axis is
    periodic.
    `channels`: the finite width.
    `gaussian`: whether channels are independent and identical Gaussians.
    `sources`: the weights and inputs that a channel's values come from, directly or by
    functions of single channels. Outputs without common sources are independent.
    `centred_by`: sets of sources, over each of which the mean is zero whatever the
    others are.
    `trainable`: whether there are any weights. If so, blocks have a tangent kernel
    where one is wanted.
    `exchangeable`: whether channels are infinitely many and alike.
    `summable`: whether the sum of the channels over the root of their number is a
    Gaussian of their mean covariance, as the central limit theorem has it: channels
    have mean zero over sources that each has for itself.
    `has_trained_gains`: whether a normalisation with trained gains acts since the last
    weights. The gradient in a gain is the channel itself, so the next nonlinearity must
    not treat that part of the NTK as independent of its input.
    `vanishing`: whether outputs vanish in the limit, as a readout does in the
    maximal-update parameterisation. No nonlinearity and no weights may follow.
    `diagonal`: whether different positions are known to be uncorrelated.
    `mask`: the positions that each example has, where not all examples have all. The
    other positions count as zero.
    `graph`: what connects the positions of each example, if anything does.
    `kept`: the most entries that a table of all pairs of positions keeps of each pair
    of examples; zero where there are blocks alone.
    """

    size: tuple[int, ...]
    canvas: tuple[int, ...]
    fixed_canvas: tuple[bool, ...]
    channels: int
    gaussian: bool
    sources: frozenset[int]
    centred_by: tuple[frozenset[int], ...]
    trainable: bool
    exchangeable: bool = False
    summable: bool = False
    has_trained_gains: bool = False
    vanishing: bool = False
    diagonal: bool = False
    mask: Bool[Array, "n *size"] | None = None
    graph: PyTree[Array] = None
    kept: int = 0

    @property
    def centred(self) -> bool:
        """Whether the mean over the sources is zero."""
        return bool(self.centred_by)

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.size)

    def replace(self, **changes: Any) -> "Outline":
        """A copy with some facts changed."""
        return dataclasses.replace(self, **changes)

    def with_weights(self, channels: int, *, gaussian: bool) -> "Outline":
        """The facts after weights of a layer's own have mixed the channels."""
        source = new_source()
        return self.replace(
            channels=channels,
            gaussian=gaussian,
            sources=source,
            centred_by=(source,),
            trainable=True,
            exchangeable=True,
            summable=True,
            has_trained_gains=False,
            diagonal=False,
        )

    def named(self, sources: frozenset[int]) -> "Outline":
        """The facts of what comes from these sources, of which more is not known."""
        centred_by = (sources,) if self.centred else ()
        return self.replace(sources=sources, centred_by=centred_by)

    def keeping(self, canvas: tuple[int, ...]) -> "Outline":
        """The facts where a table of a covariance on this canvas is kept."""
        return self.replace(kept=max(self.kept, math.prod(canvas) ** 2))

    def without_positions(self) -> "Outline":
        """The facts after positions were summed over."""
        axes = tuple(range(1, 1 + self.rank))
        mask = None if self.mask is None else self.mask.any(axes)
        return self.replace(
            size=(), canvas=(), fixed_canvas=(), diagonal=False, mask=mask, graph=None
        )

    @classmethod
    def joined(cls, outlines: Sequence["Outline"]) -> "Outline":
        """The facts of a sum of branches, on a canvas that holds every branch."""
        along_axes = lambda merge, facts: tuple(map(merge, zip(*facts, strict=True)))
        return outlines[0].replace(
            canvas=along_axes(max, [o.canvas for o in outlines]),
            fixed_canvas=along_axes(any, [o.fixed_canvas for o in outlines]),
            gaussian=all(o.gaussian for o in outlines),
            sources=frozenset().union(*(o.sources for o in outlines)),
            centred_by=_all_centred_by(outlines),
            trainable=any(o.trainable for o in outlines),
            exchangeable=all(o.exchangeable for o in outlines),
            summable=all(o.summable for o in outlines),
            has_trained_gains=any(o.has_trained_gains for o in outlines),
            vanishing=any(o.vanishing for o in outlines),
            diagonal=all(o.diagonal for o in outlines),
            mask=_any_mask(outlines),
            kept=max(o.kept for o in outlines),
        )


def _all_centred_by(outlines: Sequence[Outline]) -> tuple[frozenset[int], ...]:
    """The sources over which every branch has mean zero, those of one set of each."""
    if not all(o.centred for o in outlines):
        return ()
    return (frozenset().union(*(o.centred_by[0] for o in outlines)),)


def _any_mask(outlines: Sequence[Outline]) -> Bool[Array, "n *size"] | None:
    """The positions that any of the branches has."""
    masks = [o.mask for o in outlines]
    if all(mask is masks[0] for mask in masks):
        return masks[0]
    known = [mask for mask in masks if mask is not None]
    return functools.reduce(operator.or_, known) if len(known) == len(masks) else None
