r"""Values that are linear in a parameter, and the structure of that dependence.

The Jacobian of a network in a parameter $\theta$ is a tensor network. If a value $v$
depends on $\theta$ linearly, it contributes

$$\frac{\partial y_a}{\partial \theta_\rho} = \sum_\sigma G_{a v} F_{\cdot} F_{\cdot}$$

with the cotangents $G$ of $v$ and factors $F$ that are activations, masks or scales;
each axis has a label, as in `einsum`. A fully-connected layer has $G_{a n} x_k$ where a
dense Jacobian would hold their outer product, so that its tangent kernel is the product
of two small ones, $(G G^\top) (x x^\top)$.

**Source:** Novak et al. 2022, arXiv:2206.08720, for what structure can save.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


@dataclasses.dataclass(frozen=True, eq=False)
class Label:
    """An axis in a contraction. Two arrays that have the same label share the axis."""

    size: int


Labels: TypeAlias = tuple[Label, ...]
# Numbers of 16 bits are scalars of NumPy's that JAX's own type leaves out.
Value: TypeAlias = ArrayLike | np.generic


def new_labels(shape: Sequence[int]) -> Labels:
    """A new label for each axis of an array."""
    return tuple(map(Label, shape))


@dataclasses.dataclass(frozen=True, eq=False)
class Root:
    """A parameter, or an orthogonal change of one: its leaf, and labels of its axes."""

    leaf: int
    labels: Labels


@dataclasses.dataclass(frozen=True, eq=False)
class Factor:
    """An array in a contraction, with a label for each axis.

    A NumPy array is the same for all examples; any other may depend on the example. A
    factor that has left the trace it came from is known by its shape alone.
    """

    array: Value | jax.ShapeDtypeStruct
    labels: Labels

    @property
    def is_shared(self) -> bool:
        """Whether all examples have this factor in common."""
        return isinstance(self.array, np.ndarray)

    def as_shape(self) -> "Factor":
        """The factor without an array that may depend on the example."""
        if self.is_shared:
            return self
        shape, dtype = jnp.shape(self.array), jnp.result_type(self.array)
        return Factor(jax.ShapeDtypeStruct(shape, dtype), self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class RowRange:
    """Rows `start` to `stop` of a root, along one of its axes."""

    label: Label
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """How one value depends on one root: a label for each axis, and the factors.

    The value is the root times all factors, summed over each label that is not among
    `labels`. A label of the root stands for an axis of the parameter.
    """

    root: Root
    labels: Labels
    factors: tuple[Factor, ...] = ()
    ranges: tuple[RowRange, ...] = ()  # the value reads no other rows of the root
    entry: int | None = None  # the argument by which it entered the enclosing loop

    def relabelled(self, labels: Sequence[Label]) -> "Part":
        """The part of a value with these axes instead."""
        return dataclasses.replace(self, labels=tuple(labels))

    def times(self, array: Value, labels: Sequence[Label] = ()) -> "Part":
        """The part with one more factor; scalars are multiplied into one."""
        factors = self.factors
        if not labels:
            scalars: list[Any] = [f.array for f in factors if not f.labels]
            factors = tuple(factor for factor in factors if factor.labels)
            array = array * scalars[0] if scalars else array
            # NumPy's arithmetic turns arrays without axes into scalars.
            array = np.asarray(array) if isinstance(array, np.generic) else array
        factors = (*factors, Factor(array, tuple(labels)))
        return dataclasses.replace(self, factors=factors)

    def along(self, axis: int, matrix: Value) -> "Part":
        """The part of the value that is multiplied by a matrix along one axis."""
        new, old = Label(jnp.shape(matrix)[0]), self.labels[axis]
        labels = (*self.labels[:axis], new, *self.labels[axis + 1 :])
        return self.relabelled(labels).times(matrix, (new, old))

    @property
    def is_whole(self) -> bool:
        """Whether this is the root up to the order of its axes, and a scale."""
        own, here = (
            collections.Counter(label for label in labels if label.size != 1)
            for labels in (self.root.labels, self.labels)
        )
        scaled = all(not factor.labels for factor in self.factors)
        return scaled and not self.ranges and own == here

    def completed(self) -> "Part":
        """The part with ones along axes of the root that nothing depends on."""
        present = {*self.labels, *(l for factor in self.factors for l in factor.labels)}
        part = self
        for label in self.root.labels:
            if label not in present and label.size != 1:
                part = part.times(np.ones(label.size), (label,))
        return part

    def varying(self) -> list[Any]:
        """The factors that may depend on the example."""
        return [factor.array for factor in self.factors if not factor.is_shared]

    def as_shapes(self) -> "Part":
        """The part without arrays that may depend on the example."""
        factors = tuple(factor.as_shape() for factor in self.factors)
        return dataclasses.replace(self, factors=factors)


@dataclasses.dataclass(frozen=True, eq=False)
class Dependence:
    """How a value depends on parameters linearly: the sum of these parts."""

    parts: tuple[Part, ...]
    # Whether data are among the factors: products with more data are not worth it.
    applied: bool = False
    # Whether nothing else reads the parameter, so that its axes may be redefined.
    sole: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """A value of a network that is linear in parameters, up to an additive constant."""

    value: Value
    dependence: Dependence

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the dependence."""
        return self.dependence.parts

    @property
    def applied(self) -> bool:
        """Whether data are among the factors."""
        return self.dependence.applied

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return jnp.shape(self.value)

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the value's numbers."""
        return jnp.result_type(self.value)

    def mapped(
        self, part_of: Callable[[Part], Part], *, applied: bool = False
    ) -> Dependence:
        """The dependence of a linear function of this value, part by part."""
        return dataclasses.replace(
            self.dependence,
            parts=tuple(map(part_of, self.parts)),
            applied=self.applied or applied,
        )


Argument: TypeAlias = View | Value
Dependences: TypeAlias = Sequence[Dependence] | None


def value_of(argument: Argument) -> Value:
    """The value, whether or not it is known how it depends on parameters."""
    return argument.value if isinstance(argument, View) else argument


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
    """One place where a parameter enters.

    The part says how it enters, and the tap gives the cotangents of the value there.
    """

    part: Part
    tap: int
