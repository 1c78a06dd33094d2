"""Layers that are wired to each other in any way."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import equinox as eqx
from jaxtyping import PRNGKeyArray

from eqtangents._types import Count, Lines, ValuesRead
from eqtangents.covariance import AbstractCovariance
from eqtangents.nn._containers import checked_layers, split_keys
from eqtangents.nn._inputs import is_signal
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    Example,
    LayerError,
    Shape,
    error_path,
    is_shape,
    shape_after,
)


class Wiring(AbstractLayer):
    """Layers each of which reads the outputs of any layers before it.

    Values are numbered: first the inputs of the network, then the output of each layer.
    The last layer's is the output of the network. A value that several layers read is
    computed once, and branches know what they have in common.

    Networks that are read from models, by `eqt.from_equinox` and `eqt.from_function`,
    are of this kind. Printed, they are a list of what was recognised.
    """

    layers: tuple[AbstractLayer, ...]
    reads: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    inputs: Count = eqx.field(static=True)
    lines: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        layers: Sequence[AbstractLayer],
        reads: ValuesRead,
        *,
        inputs: Count = 1,
        lines: Lines | None = None,
    ):
        """Wire layers.

        **Arguments:**

        - `layers`: the layers, each after all that it reads.
        - `reads`: for each layer, the numbers of the values that it takes: one, or
            several for a layer that takes a tuple, such as `FanInSum`.
        - `inputs`: how many inputs the network has. If several, it takes a tuple.
        - `lines`: for each layer, the line of a program that it was read from. Errors
            name it.

        **Raises:** `ValueError` for layers that read nothing, or what is not there yet.
        """
        self.layers = checked_layers(self, layers)
        self.reads = tuple(tuple(map(int, one)) for one in reads)
        self.inputs = int(inputs)
        self.lines = None if lines is None else tuple(lines)

    def __check_init__(self):
        """Raise unless every layer reads what is there by then."""
        count = len(self.layers)
        if not count or len(self.reads) != count:
            raise ValueError(
                f"Wiring: there are {count} layers and {len(self.reads)} entries of "
                "`reads`. Give for each layer the numbers of the values that it reads."
            )
        for i, numbers in enumerate(self.reads):
            there = self.inputs + i
            if not numbers or min(numbers) < 0 or max(numbers) >= there:
                raise ValueError(
                    f"Wiring: `reads[{i}]` is {numbers}, but must be some of the "
                    f"numbers from 0 to {there - 1}: inputs come first, then the "
                    "outputs of the layers before."
                )

    def init(self, input_shape: Shape, *, key: PRNGKeyArray | None = None) -> "Wiring":
        """Initialise each layer for what it reads."""
        values = self._inputs(input_shape, is_shape(input_shape))
        layers = []
        keys = split_keys(key, len(self.layers))
        for i, (layer, layer_key) in enumerate(zip(self.layers, keys, strict=True)):
            with self._place(i):
                shape = self._read(values, i)
                layers.append(layer.init(shape, key=layer_key))
                values.append(shape_after(layers[-1], shape))
        return eqx.tree_at(lambda net: net.layers, self, tuple(layers))

    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Any:
        values = self._inputs(x, is_signal(x))
        keys = split_keys(key, len(self.layers))
        for i, (layer, layer_key) in enumerate(zip(self.layers, keys, strict=True)):
            with self._place(i):
                values.append(layer(self._read(values, i), key=layer_key))
        return values[-1]

    def propagate(self, covariance: Covariances) -> Covariances:
        """Propagate through each layer; values that are read twice are one node."""
        values = self._inputs(covariance, isinstance(covariance, AbstractCovariance))
        for i, layer in enumerate(self.layers):
            with self._place(i):
                values.append(layer.propagate(self._read(values, i)))
        return values[-1]

    def __repr__(self) -> str:
        """A line for each layer."""
        width = max(len(self._name(i)) for i in range(self.inputs + len(self.layers)))
        lines = []
        for i, (layer, numbers) in enumerate(zip(self.layers, self.reads, strict=True)):
            name = self._name(self.inputs + i).ljust(width)
            given = ", ".join(map(self._name, numbers))
            whole = eqx.tree_pformat(layer, width=10_000)
            line = f"  {name} = {whole} of {given}"
            lines.append(line + (f"  # {self.lines[i]}" if self.lines else ""))
        return "\n".join(["Wiring(", *lines, ")"])

    def _name(self, number: int) -> str:
        if number < self.inputs:
            return "x" if self.inputs == 1 else f"x{number}"
        return f"h{number - self.inputs}"

    def _inputs(self, given: Any, single: bool) -> list[Any]:
        values = [given] if single else list(given)
        if len(values) != self.inputs:
            raise LayerError(
                self,
                f"takes {self.inputs} inputs, but gets {len(values)}. Pass a tuple "
                "with one for each.",
            )
        return values

    def _read(self, values: list[Any], i: int) -> Any:
        numbers = self.reads[i]
        if len(numbers) == 1:
            return values[numbers[0]]
        return tuple(values[number] for number in numbers)

    @contextlib.contextmanager
    def _place(self, i: int) -> Iterator[None]:
        line = self.lines[i] if self.lines else ""
        try:
            with error_path(f"layers[{i}] at {line}" if line else f"layers[{i}]"):
                yield
        except LayerError as error:
            if line and "empirical_ntk" not in error.message:
                message = f"{error.message} {WHAT_WORKS}"
                raise LayerError(error.layer, message, error.path) from None
            raise


# What works for models that no layers were found for.
WHAT_WORKS = (
    "Kernels of the model as it is: `eqtangents.empirical_ntk`, and "
    "`eqtangents.monte_carlo`, the mean over draws of its parameters."
)
