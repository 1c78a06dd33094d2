"""The `finite__*` cases of `tests/reference`: networks with explicit parameters.

Arrays of the reference have its order of axes. What each axis means is told by the
translation of the network in `reference_cases`; here all are moved to our order.
"""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import reference_cases
from eqtangents.nn._inputs import values_of
from eqtangents.nn._layer import shape_after
from precision import DTYPE
from reference import load
from reference_cases import Axes, ReferenceCase


PREFIX, VALUES = "finite__", "finite__nonlinearity_values"


# Parameters of our layers from those of the reference, by name. `axes` are those of the
# layer's input; `flattened` is the shape that was flattened right before it.


def _linear(given, spec, axes, flattened):
    weight = given["W"]
    if flattened is not None:  # there channels came last, here they come first
        channels, *size = flattened
        weight = weight.reshape(*size, channels, -1)
        weight = np.moveaxis(weight, -2, 0).reshape(-1, weight.shape[-1])
    return {"weight": weight.T, **_bias(given)}


def _bias(given):
    return {"bias": given["b"].ravel()} if "b" in given else {}


def _conv(given, spec, axes, flattened):
    letters = [chr(ord("a") + i) for i in range(len(spec["filter"]))]
    default = {"input": ["N", *letters, "C"], "filter": [*letters, "I", "O"]}
    layout = spec.get("layout") or default
    ours = dict(zip(layout["input"], axes, strict=True)) | {"O": -2, "I": -1}
    places = [ours[letter] for letter in layout["filter"]]
    return {"weight": given["W"].transpose(np.argsort(places)), **_bias(given)}


def _conv_local(given, spec, axes, flattened):
    weight = np.moveaxis(given["W"], (-1, -2), (0, 1))
    bias = {"bias": np.moveaxis(given["b"][0], -1, 0)} if "b" in given else {}
    return {"weight": weight, **bias}


def _attention(given, spec, axes, flattened):
    shape = spec["n_chan_val"], spec["n_heads"], spec["width"]
    fields = {"output": given["O"].reshape(shape).transpose(2, 1, 0), **_bias(given)}
    for theirs, ours in (("Q", "query"), ("K", "key"), ("V", "value")):
        if theirs in given:
            fields[ours] = given[theirs].transpose(0, 2, 1)
    if "pos" in given:
        fields["embedding"] = np.moveaxis(given["pos"][0], -1, 0)
    return fields


_PARAMETERS = {
    "dense": _linear,
    "conv": _conv,
    "conv_transpose": _conv,
    "conv_local": _conv_local,
    "global_self_attention": _attention,
}


def _located(layer, spec, axes, shape, path=(), flattened=None):
    """Every simple layer of a network: where it is, and what comes into it."""
    if spec["op"] not in ("serial", "parallel"):
        yield path, spec, axes, flattened
        return
    several = spec["op"] == "parallel"
    for i, (one, inner) in enumerate(zip(layer.layers, spec["layers"], strict=True)):
        into = (axes[i], shape[i]) if several else (axes, shape)
        yield from _located(one, inner, *into, (*path, i), flattened)
        if not several:
            flattened = shape if inner["op"] == "flatten" else None
            _, axes = reference_cases.translate(inner, axes)
            shape = shape_after(one, shape)


@dataclasses.dataclass(frozen=True, eq=False)
class FiniteCase:
    """A network, its inputs, and what the reference computed of it."""

    case: ReferenceCase

    @property
    def name(self) -> str:
        return self.case.name.removeprefix(PREFIX)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return self.case.data.arrays

    def batch(self, side: int) -> Any:
        to_ours = lambda x: jnp.asarray(x, DTYPE if x.dtype.kind == "f" else None)
        return jax.tree.map(to_ours, self.case._batch(f"x{side}"))

    @property
    def net(self) -> Any:
        """Our network, with parameters of no meaning."""
        shape = values_of(self.batch(1)).shape[1:]
        return self.case.build().init(shape, key=jr.key(0))

    def model(self, name: str) -> Any:
        """Our network with the parameters of that name, `param` or `param1`."""
        shape, net = values_of(self.batch(1)).shape[1:], self.net
        spec, axes = self.case.data.spec, self.case.input_axes[0]
        named = [k.split("/")[1:] for k in self.arrays if k.startswith(f"{name}/")]
        for path, layer, into, flattened in _located(net, spec["net"], axes, shape):
            own = [key[-1] for key in named if key[:-1] == list(map(str, path))]
            if not own:
                continue
            place = "/".join([name, *map(str, path)])
            given = {one: self.arrays[f"{place}/{one}"] for one in own}
            fields = _PARAMETERS[layer["op"]](given, layer, into, flattened)
            assert len(fields) == len(given)
            named = [key for key in named if key[:-1] != list(map(str, path))]
            where = functools.partial(_fields_at, path, tuple(fields))
            shapes = [array.shape for array in where(net)]
            assert shapes == [array.shape for array in fields.values()], place
            values = [jnp.asarray(value, DTYPE) for value in fields.values()]
            net = eqx.tree_at(where, net, values)
        assert not named, f"parameters that were not used: {named}"
        return net

    def outputs(self, name: str) -> list[np.ndarray]:
        """Outputs of the reference, `(n, channels, *spatial)`, one for each."""
        found = []
        for key, axes in zip(self._keys(name), self.output_axes, strict=True):
            order = sorted(range(len(axes)), key=lambda i, axes=axes: _place(axes[i]))
            found.append(self.arrays[key].transpose(order))
        return found

    @property
    def output_axes(self) -> list[Axes]:
        axes = self.case.output_axes
        return axes if isinstance(axes, list) else [axes]

    def _keys(self, name: str) -> list[str]:
        if not isinstance(self.case.output_axes, list):
            return [name]
        return [f"{name}.{i}" for i in range(len(self.output_axes))]

    @property
    def variants(self) -> list["Variant"]:
        """The kernels: which axes of the outputs are traced, which diagonal."""
        return [
            Variant(self, one["id"], one["trace_axes"], one["diagonal_axes"])
            for one in self.case.data.meta["variants"]
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """One choice of traced and of diagonal axes, counted in the reference's order."""

    case: FiniteCase
    id: str
    trace_axes: list[int]
    diagonal_axes: list[int]

    def ours(self, axes: Axes) -> tuple[list[Any], list[Any]]:
        """The meaning of the traced and of the diagonal axes."""
        return tuple(
            [axes[i] for i in a] for a in (self.trace_axes, self.diagonal_axes)
        )

    def expected(self, kind: str, tag: str) -> list[np.ndarray]:
        """`(*diagonal, *free1, *free2)` in our order, examples among all of them."""
        found = []
        keys = self.case._keys(f"{self.id}.{kind}_{tag}")
        for key, axes in zip(keys, self.case.output_axes, strict=True):
            traced, diagonal = self.ours(axes)
            labels = []
            for axis in axes:
                if axis not in traced:
                    both = [(1, _place(axis)), (2, _place(axis))]
                    labels += [(0, _place(axis))] if axis in diagonal else both
            order = sorted(range(len(labels)), key=lambda i, labels=labels: labels[i])
            found.append(self.case.arrays[key].transpose(order))
        return found

    def of_full(self, full: np.ndarray, axes: Axes) -> np.ndarray:
        """The same from the kernel with all axes, `(n1, n2, *outputs1, *outputs2)`."""
        traced, diagonal = self.ours(axes)
        rank = (full.ndim - 2) // 2
        # All axes of one side, then all of the other.
        full = np.moveaxis(full, 1, 1 + rank)
        sides = [sorted(axes, key=_place), sorted(axes, key=_place)]
        for label in sorted([*traced, *diagonal], key=_place):
            first, second = (side.index(label) for side in sides)
            second += len(sides[0])
            paired = np.diagonal(full, axis1=first, axis2=second)
            full = paired.mean(-1) if label in traced else paired
            for side in sides:
                side.remove(label)
        # The diagonals came last, one after the other.
        count = len(diagonal)
        return np.moveaxis(full, range(-count, 0), range(count)) if count else full


def _fields_at(path: tuple[int, ...], names: tuple[str, ...], net: Any) -> list[Any]:
    layer = functools.reduce(lambda node, i: node.layers[i], path, net)
    return [getattr(layer, name) for name in names]


def _place(axis: Any) -> int:
    return {"N": -2, "C": -1}.get(axis, axis)


@functools.cache
def cases() -> list[FiniteCase]:
    """All networks."""
    found = []
    for path in load.cases("finite"):
        data = load.load_case(path)
        name = path.stem
        if name == VALUES:
            continue
        if data.spec["mask"] is not None:
            for side in (1, 2):
                x = data.arrays[f"x{side}"]
                data.arrays[f"mask{side}"] = x == data.spec["mask"]["constant"]
        # Of the first layer's layout, which `inputs` does not always know.
        if layout := data.spec["net"]["layers"][0].get("layout"):
            for letter, name in (("N", "batch_axis"), ("C", "channel_axis")):
                data.spec["inputs"][name] = layout["input"].index(letter)
        build, *axes = reference_cases._translate_case(data.spec, frozenset())
        found.append(
            FiniteCase(ReferenceCase(name, "supported", "", data, build, *axes))
        )
    return found


def values() -> list[tuple[str, dict, np.ndarray, np.ndarray]]:
    """Name, specification, inputs and outputs of every nonlinearity."""
    data = load.load_case(load.CASES / f"{VALUES}.npz")
    found = []
    for row in data.meta["rows"]:
        x, expected = data.arrays["x"], data.arrays.get(f"y/{row['name']}")
        if expected is None:
            continue  # defined by its kernel alone
        if row["name"] == "rectified_monomial_0":
            # At the jump itself ours is the mean of both sides.
            x, expected = x[x != 0][:, None], expected[x != 0][:, None]
        found.append((row["name"], row["layer"], x, expected))
    return found
