r"""Values that are linear in a parameter, and the structure of that dependence.

The Jacobian of a network in a parameter $\theta$ is a tensor network. That of a value
$v$ which depends on $\theta$ linearly is

$$\frac{\partial y_a}{\partial \theta_\rho} = \sum_\sigma G_{a v} F_{\cdot} F_{\cdot}$$

with the cotangents $G$ of $v$ and factors $F$ that are activations, masks or scales;
axes are told apart by labels, as in `einsum`. A fully-connected layer has
$G_{a n} x_k$ where a dense Jacobian would hold their outer product, so that its tangent
kernel is the product of two small ones, $(G G^\top) (x x^\top)$.

**Source:** Novak et al. 2022, arXiv:2206.08720, for what structure can save.
"""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


Label: TypeAlias = int
Labels: TypeAlias = tuple[Label, ...]
# NumPy arrays are the same for all examples.
Factor: TypeAlias = tuple[Any, Labels]


@dataclasses.dataclass(frozen=True)
class Part:
    """How one value depends on one root: a label for each axis, and the factors.

    The labels of the root itself are those of the parameter's axes. All others are
    summed over.
    """

    root: int
    labels: Labels
    factors: tuple[Factor, ...] = ()
    # Where it is a slice: first and last row, along axes of the root.
    windows: tuple[tuple[Label, int, int], ...] = ()
    entry: int | None = None  # which argument of the enclosing loop it came in by

    def relabelled(self, labels: Labels) -> "Part":
        """With other labels for the axes."""
        return dataclasses.replace(self, labels=labels)

    def times(self, array: Any, labels: Labels = ()) -> "Part":
        """With one more factor; scalars are gathered in one."""
        factors = self.factors
        if not labels:
            scalars = [value for value, own in factors if not own]
            factors = tuple(factor for factor in factors if factor[1])
            array = array * scalars[0] if scalars else array
            # NumPy's arithmetic turns arrays without axes into scalars.
            array = np.asarray(array) if isinstance(array, np.generic) else array
        return dataclasses.replace(self, factors=(*factors, (array, labels)))


@dataclasses.dataclass(eq=False)
class View:
    """A value that is a sum of parts linear in parameters, and of anything else."""

    value: Any
    parts: tuple[Part, ...]
    # Whether data are among the factors: products with more data are not worth it.
    applied: bool = False
    # Whether nothing else reads the parameter, so that its axes may be redefined.
    sole: bool = False
    tapped: Any = None  # the value, once its cotangents are asked for

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return jnp.shape(self.value)

    def mapped(self, value: Any, part_of: Any, **changes: Any) -> "View":
        """The view of another value, with parts that are functions of these."""
        parts = tuple(part_of(part) for part in self.parts)
        return dataclasses.replace(
            self, value=value, parts=parts, tapped=None, **changes
        )


@dataclasses.dataclass(frozen=True)
class Use:
    """A part at a value whose cotangents are computed."""

    part: Part
    tap: int


class Taps:
    """Zeros that are added to values, so that the derivative in them is a cotangent."""

    def __init__(self, values: list[Array] | None = None):
        """Add these; with none given, only note what would be needed."""
        self.values = values
        self.shapes: list[jax.ShapeDtypeStruct] = []

    def take(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """The next one."""
        self.shapes.append(jax.ShapeDtypeStruct(shape, dtype))
        if self.values is None:
            return jnp.zeros(shape, dtype)
        return self.values[len(self.shapes) - 1]


class Labelling:
    """The labels in use, and the roots."""

    def __init__(self):
        """Start without any."""
        self.sizes: list[int] = []
        self.roots: list[Labels] = []
        self.leaf_of: list[int] = []

    def label(self, size: int) -> Label:
        """A new label for an axis."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def labels(self, shape: tuple[int, ...]) -> Labels:
        """New labels for all axes of an array."""
        return tuple(map(self.label, shape))

    def root(self, leaf: int, labels: Labels) -> int:
        """A new root: a parameter, or an orthogonal change of one."""
        self.roots.append(labels)
        self.leaf_of.append(leaf)
        return len(self.roots) - 1

    def is_whole(self, part: Part) -> bool:
        """Whether this is the root up to the order of axes, and scale."""
        own = [label for label in self.roots[part.root] if self.sizes[label] != 1]
        here = [label for label in part.labels if self.sizes[label] != 1]
        scaled = all(not labels for _, labels in part.factors)
        return scaled and not part.windows and sorted(own) == sorted(here)

    def complete(self, part: Part) -> Part:
        """With ones along axes of the root that nothing depends on."""
        present = {*part.labels, *(label for _, own in part.factors for label in own)}
        for label in self.roots[part.root]:
            if label not in present and self.sizes[label] != 1:
                part = part.times(np.ones(self.sizes[label]), (label,))
        return part


def is_shared(factor: Any) -> bool:
    """Whether a factor is the same for all examples, by its type."""
    return isinstance(factor, np.ndarray)


def varying(part: Part) -> list[Any]:
    """The factors that may depend on the example."""
    return [array for array, _ in part.factors if not is_shared(array)]
