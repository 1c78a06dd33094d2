"""The kernels of Neural Tangents 0.6.5 in `tests/reference`, for nets of our layers.

A reference network names the axes of an activation by number, in any order. Ours are
always `(channels, *spatial)` for one example. So translation carries the meaning of
each reference axis of the activation: `"N"` (examples), `"C"` (channels) or the index
of one of our spatial axes. Layouts and axis numbers then only rename axes, and the
kernels are permuted once, at the end.

Translation reads the specification alone and returns a function that builds the
network: a layer that fails to construct fails the test of its case, not all of them.

`python -m tests.reference_cases` prints which cases are covered and which operations
the others wait for.
"""

import collections
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import reference_activations
from eqtangents import nn
from reference import load


# Our layers can express it and the reference computed it; the reference raised; the
# reference is known to be wrong; our layers cannot express it.
Status = Literal["supported", "refused", "defect", "unsupported"]
Axes = tuple[Any, ...]  # of one activation, or a list of those where there are several
Build = Callable[[], Any]


class Unsupported(Exception):
    """A reference network that our layers cannot express; `op` is why."""

    def __init__(self, op: str, reason: str = "no such layer yet"):
        super().__init__(f"`{op}`: {reason}")
        self.op = op


# Translation of the grammar, spec.md section 2.

_REQUIRED = object()


def _fields(layer: dict, /, **defaults) -> dict:
    """Fields of `layer` over their defaults; unknown and missing ones are errors."""
    given = {name: value for name, value in layer.items() if name not in ("op", "note")}
    fields = {**defaults, **given}
    missing = [name for name, value in fields.items() if value is _REQUIRED]
    if unknown := sorted(set(given) - set(defaults)):
        raise KeyError(f"`{layer['op']}` has no fields {unknown}")
    if missing:
        raise KeyError(f"`{layer['op']}` lacks the fields {missing}")
    return fields


_AXES = {"batch_axis": 0, "channel_axis": -1}
_AFFINE = {
    "width": _REQUIRED,
    "W_std": 1.0,
    "b_std": None,
    "parameterization": "ntk",
    "s": [1, 1],
}


def _affine_options(fields: dict) -> dict:
    options = {
        "weight_std": fields["W_std"],
        "bias_std": fields["b_std"],
        "parameterization": fields["parameterization"],
    }
    if fields["parameterization"] != "ntk":  # where the reference ignores it
        options["width_multipliers"] = tuple(fields["s"])
    return options


def _check_axes(op: str, fields: dict, axes: Axes) -> None:
    for label, name in (("N", "batch_axis"), ("C", "channel_axis")):
        if axes[fields[name]] != label:
            raise Unsupported(
                op,
                f"{name}={fields[name]} is another axis of {axes}: ours cannot change",
            )


def _spatial(axes: Axes) -> tuple[int, ...]:
    """Our spatial axes in the order in which the reference holds them."""
    return tuple(axis for axis in axes if isinstance(axis, int))


def _in_our_order(
    values: list[int] | None, spatial: tuple[int, ...]
) -> tuple[int, ...]:
    """Numbers given one per reference axis (`null`: all 1), one per axis of ours."""
    if values is None:
        values = [1] * len(spatial)
    return tuple(value for _, value in sorted(zip(spatial, values, strict=True)))


def _elementwise(make: Callable[..., Any], **defaults):
    """A layer that leaves all axes alone. `stabilize` is numerical only."""

    def translate(layer: dict, axes: Axes) -> tuple[Build, Axes]:
        fields = _fields(layer, **defaults)
        fields.pop("stabilize", None)
        return functools.partial(make, **fields), axes

    return translate


def _dense(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(layer, **_AFFINE, **_AXES)
    _check_axes("dense", fields, axes)
    return functools.partial(
        nn.Linear, fields["width"], **_affine_options(fields)
    ), axes


def _conv(make: Callable[..., Any]):
    def translate(layer: dict, axes: Axes) -> tuple[Build, Axes]:
        op = layer["op"]
        fields = _fields(
            layer,
            **_AFFINE,
            filter=_REQUIRED,
            strides=None,
            padding="VALID",
            layout=None,
        )
        layout = fields["layout"]
        if layout is None:
            letters = [chr(ord("a") + i) for i in range(len(fields["filter"]))]
            layout = {
                "input": ["N", *letters, "C"],
                "filter": [*letters, "I", "O"],
                "output": ["N", *letters, "C"],
            }
        if len(layout["input"]) != len(axes):
            raise Unsupported(op, f"layout {layout} for an activation with axes {axes}")
        ours = dict(zip(layout["input"], axes, strict=True))
        if (ours["N"], ours["C"]) != ("N", "C"):
            raise Unsupported(
                op,
                f"layout {layout} takes other axes of {axes} for examples and channels",
            )
        spatial = tuple(ours[a] for a in layout["filter"] if a not in "IO")
        build = functools.partial(
            make,
            fields["width"],
            _in_our_order(fields["filter"], spatial),
            _in_our_order(fields["strides"], spatial),
            fields["padding"],
            **_affine_options(fields),
        )
        return build, tuple(ours[letter] for letter in layout["output"])

    return translate


def _pool(make: Callable[..., Any], **options):
    def translate(layer: dict, axes: Axes) -> tuple[Build, Axes]:
        fields = _fields(
            layer, window=_REQUIRED, strides=None, padding="VALID", **options, **_AXES
        )
        _check_axes(layer["op"], fields, axes)
        spatial = _spatial(axes)
        build = functools.partial(
            make,
            _in_our_order(fields["window"], spatial),
            _in_our_order(fields["strides"], spatial),
            fields["padding"],
            **{name: fields[name] for name in options},
        )
        return build, axes

    return translate


def _global_pool(make: Callable[..., Any]):
    def translate(layer: dict, axes: Axes) -> tuple[Build, Axes]:
        _check_axes(layer["op"], _fields(layer, **_AXES), axes)
        return make, tuple(axis for axis in axes if not isinstance(axis, int))

    return translate


def _flatten(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(layer, batch_axis=0, batch_axis_out=0)
    if axes[fields["batch_axis"]] != "N":
        raise Unsupported("flatten", f"batch_axis={fields['batch_axis']} of {axes}")
    out = {0: ("N", "C"), 1: ("C", "N")}.get(fields["batch_axis_out"])
    if out is None:
        raise Unsupported("flatten", f"batch_axis_out={fields['batch_axis_out']}")
    return nn.Flatten, out


def _serial(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    builds = []
    for inner in _fields(layer, layers=_REQUIRED)["layers"]:
        build, axes = translate(inner, axes)
        builds.append(build)
    return lambda: nn.Sequential([build() for build in builds]), axes


def _parallel(layer: dict, axes: list[Axes]) -> tuple[Build, list[Axes]]:
    layers = _fields(layer, layers=_REQUIRED)["layers"]
    branches = [translate(*branch) for branch in zip(layers, axes, strict=True)]
    build = lambda: nn.Parallel([build() for build, _ in branches])
    return build, [out for _, out in branches]


def _repeat(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(layer, layer=_REQUIRED, n=_REQUIRED)
    build, out = translate(fields["layer"], axes)
    if out != axes:
        raise Unsupported("repeat", f"the repeated layer turns axes {axes} into {out}")
    return lambda: nn.Repeat(build(), fields["n"]), out


def _fan_out(layer: dict, axes: Axes) -> tuple[Build, list[Axes]]:
    n = _fields(layer, n=_REQUIRED)["n"]
    return functools.partial(nn.FanOut, n), [axes] * n


def _common_axes(op: str, axes: list[Axes]) -> Axes:
    if len(set(axes)) != 1:
        raise Unsupported(op, f"branches whose axes have different meanings: {axes}")
    return axes[0]


def _fan_in(make: Callable[[], Any]):
    def translate(layer: dict, axes: list[Axes]) -> tuple[Build, Axes]:
        _fields(layer)
        return make, _common_axes(layer["op"], axes)

    return translate


def _fan_in_concat(layer: dict, axes: list[Axes]) -> tuple[Build, Axes]:
    out = _common_axes("fan_in_concat", axes)
    axis = out[_fields(layer, axis=-1)["axis"]]
    if axis == "N":
        raise Unsupported(
            "fan_in_concat", "along the examples: done on the Gram matrix instead"
        )
    return functools.partial(nn.FanInConcat, 0 if axis == "C" else axis + 1), out


def _layer_norm(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(layer, axis=-1, eps=1e-12, **_AXES)
    _check_axes("layer_norm", fields, axes)
    over = fields["axis"] if isinstance(fields["axis"], list) else [fields["axis"]]
    labels = [axes[axis] for axis in over]
    if "N" in labels:
        raise Unsupported("layer_norm", "over the examples: ours acts on one")
    ours = tuple(0 if label == "C" else label + 1 for label in labels)
    return functools.partial(nn.LayerNorm, ours, eps=fields["eps"]), axes


def _dropout(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(layer, keep_rate=_REQUIRED, mode="train")
    if fields["mode"] not in ("train", "test"):
        raise Unsupported("dropout", f"mode {fields['mode']!r}: ours is a boolean")
    return functools.partial(
        nn.Dropout, 1 - fields["keep_rate"], inference=fields["mode"] == "test"
    ), axes


def _image_resize(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(layer, shape=_REQUIRED, method=_REQUIRED, antialias=True, **_AXES)
    _check_axes("image_resize", fields, axes)
    sizes = dict(zip(axes, fields["shape"], strict=True))
    if sizes.pop("N") != -1 or sizes.pop("C") != -1:
        raise Unsupported("image_resize", "resizes examples or channels")
    shape = [None if sizes[i] == -1 else sizes[i] for i in sorted(sizes)]
    build = functools.partial(
        nn.ImageResize, shape, fields["method"], antialias=fields["antialias"]
    )
    return build, axes


def _index(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(layer, idx=_REQUIRED, **_AXES)
    _check_axes("index", fields, axes)
    picks = [_pick(one) for one in fields["idx"]]
    at = picks.index(...) if ... in picks else len(picks)
    rest = [slice(None)] * (len(axes) - len(picks) + (... in picks))
    picks = picks[:at] + rest + picks[at + 1 :]
    chosen = dict(zip(axes, picks, strict=True))
    if any(chosen.pop(axis) != slice(None) for axis in "NC"):
        raise Unsupported("index", "picks examples or channels")
    kept = [axis for axis in sorted(chosen) if not isinstance(chosen[axis], int)]
    renamed = {axis: i for i, axis in enumerate(kept)} | {"N": "N", "C": "C"}
    out = tuple(renamed[axis] for axis in axes if axis in renamed)
    ours = tuple(chosen[axis] for axis in sorted(chosen))
    return functools.partial(nn.Index, ours), out


def _pick(one: Any) -> Any:
    if one == "...":
        return ...
    if isinstance(one, int):
        return one
    return slice(*one["slice"]) if "slice" in one else tuple(one["take"])


def _dot_general(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(
        layer,
        array=None,
        side="rhs",
        contract=[[], []],
        batch=[[], []],
        **_AXES,
    )
    _check_axes("dot_general", fields, axes)
    array = np.asarray(fields["array"])
    contracted, batched = (
        [axes[d] for d in fields[n][0]] for n in ("contract", "batch")
    )
    if {"N", "C"} & {*contracted, *batched}:
        raise Unsupported("dot_general", "contracts examples or channels")
    used = [*fields["contract"][1], *fields["batch"][1]]
    free = [f"array {axis}" for axis in range(array.ndim) if axis not in used]
    kept = [a for a in axes if a not in contracted and a not in batched]
    on_right = fields["side"] == "rhs"
    reference = [*batched, *(kept + free if on_right else free + kept)]
    spatial = [a for a in sorted(_spatial(axes)) if a in kept]
    ours = [*batched, *(spatial + free if on_right else free + spatial)]
    pair = (tuple(contracted), tuple(fields["contract"][1]))
    batch = (tuple(batched), tuple(fields["batch"][1]))
    build = functools.partial(
        nn.DotGeneral,
        **{fields["side"]: array},
        dimension_numbers=(pair, batch) if on_right else (pair[::-1], batch[::-1]),
    )
    return build, tuple(a if a in ("N", "C") else ours.index(a) for a in reference)


def _aggregate(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(
        layer, axes=None, implementation="dense", edges_to_dense=None, **_AXES
    )
    _check_axes("aggregate", fields, axes)
    over = _spatial(axes) if fields["axes"] is None else fields["axes"]
    if fields["axes"] is not None:
        over = tuple(axes[axis] for axis in over)
    return functools.partial(nn.Aggregate, tuple(axis + 1 for axis in over)), axes


_DECAYS = {
    "exp": lambda scale: lambda d: jnp.exp(-scale * d),
    "inverse": lambda scale: lambda d: 1 / (1 + scale * d),
    "inverse_square": lambda scale: lambda d: 1 / (1 + (scale * d) ** 2),
}


def _attention(layer: dict, axes: Axes) -> tuple[Build, Axes]:
    fields = _fields(
        layer,
        width=_REQUIRED,
        n_chan_key=_REQUIRED,
        n_chan_val=_REQUIRED,
        n_heads=_REQUIRED,
        linear_scaling=True,
        W_key_std=1.0,
        W_value_std=1.0,
        W_query_std=1.0,
        W_out_std=1.0,
        b_std=None,
        mechanism="softmax",
        pos_emb=None,
        val_pos_emb=False,
        **_AXES,
    )
    _check_axes("global_self_attention", fields, axes)

    def build() -> nn.GlobalSelfAttention:
        positional = None
        if fields["pos_emb"] is not None:
            given = {"W_std": 1.0, "n_chan": None, "p_norm": 2, "decay": None}
            given |= fields["pos_emb"]
            decay = given["decay"]
            if decay is not None:
                decay = _DECAYS[decay["fn"]](decay["scale"])
            positional = nn.PositionalEmbedding(
                given["type"],
                std=given["W_std"],
                channels=given["n_chan"],
                decay=decay,
                p_norm=given["p_norm"],
                on_values=fields["val_pos_emb"],
            )
        return nn.GlobalSelfAttention(
            fields["width"],
            key_channels=fields["n_chan_key"],
            value_channels=fields["n_chan_val"],
            heads=fields["n_heads"],
            linear_scaling=fields["linear_scaling"],
            mechanism=fields["mechanism"],
            positional=positional,
            query_std=fields["W_query_std"],
            key_std=fields["W_key_std"],
            value_std=fields["W_value_std"],
            output_std=fields["W_out_std"],
            bias_std=fields["b_std"],
        )

    return build, axes


_TRANSLATIONS = {
    "serial": _serial,
    "parallel": _parallel,
    "repeat": _repeat,
    "identity": _elementwise(nn.Identity),
    "fan_out": _fan_out,
    "fan_in_sum": _fan_in(nn.FanInSum),
    "fan_in_prod": _fan_in(nn.FanInProd),
    "fan_in_concat": _fan_in_concat,
    "dense": _dense,
    "conv": _conv(nn.Conv),
    "conv_transpose": _conv(nn.ConvTranspose),
    "conv_local": _conv(nn.ConvLocal),
    "global_self_attention": _attention,
    "layer_norm": _layer_norm,
    "dropout": _dropout,
    "image_resize": _image_resize,
    "index": _index,
    "dot_general": _dot_general,
    "aggregate": _aggregate,
    "avg_pool": _pool(nn.AvgPool, normalize_edges=False),
    "sum_pool": _pool(nn.SumPool),
    "global_avg_pool": _global_pool(nn.GlobalAvgPool),
    "global_sum_pool": _global_pool(nn.GlobalSumPool),
    "flatten": _flatten,
    "relu": _elementwise(nn.Relu, stabilize=False),
    "leaky_relu": _elementwise(
        lambda alpha: nn.LeakyRelu(negative_slope=alpha),
        alpha=_REQUIRED,
        stabilize=False,
    ),
    "abrelu": _elementwise(
        lambda a, b: nn.ABRelu(negative_slope=a, positive_slope=b),
        a=_REQUIRED,
        b=_REQUIRED,
        stabilize=False,
    ),
    "abs": _elementwise(nn.Abs, stabilize=False),
    "erf": _elementwise(nn.Erf, a=1.0, b=1.0, c=0.0),
    **reference_activations.layers(_elementwise, _REQUIRED),
}


def translate(layer: dict, axes: Any) -> tuple[Build, Any]:
    """What builds our version of `layer`, and the meaning of the axes it returns.

    Raises `Unsupported` where our layers cannot express it.
    """
    if layer["op"] not in _TRANSLATIONS:
        raise Unsupported(layer["op"])
    return _TRANSLATIONS[layer["op"]](layer, axes)


def _input_axes(ndim: int, batch_axis: int, channel_axis: int) -> Axes:
    axes: list[Any] = [None] * ndim
    axes[channel_axis], axes[batch_axis] = "C", "N"
    return tuple(axis if axis else axes[:i].count(None) for i, axis in enumerate(axes))


def _translate_case(spec: dict, operations: frozenset[str]) -> tuple[Build, Any, Any]:
    """Build function, axes of the inputs and axes of the outputs of a case."""
    # Before any other reason: a case waits for its layers first.
    if unknown := sorted(operations - set(_TRANSLATIONS)):
        raise Unsupported(unknown[0], f"no such layers yet: {', '.join(unknown)}")
    inputs = spec["inputs"]
    shapes = inputs["shape1"] if inputs["multi"] else [inputs["shape1"]]
    axes = [
        _input_axes(len(shape), inputs["batch_axis"], inputs["channel_axis"])
        for shape in shapes
    ]
    build, out = translate(spec["net"], axes if inputs["multi"] else axes[0])
    return build, axes, out


# Cases.


@dataclasses.dataclass(frozen=True, eq=False)
class Expected:
    """One array of the reference in our axis order, and where our kernel has it."""

    name: str  # e.g. `ntk_12`, `cov1_11.0`
    output: int | None  # which output of a network with several
    diagonal_batch: bool  # the reference stored equal examples only
    diagonal_spatial: bool  # the reference stored equal positions only
    asymmetric: bool  # the reference's quadrature is: one half is compared
    value: np.ndarray

    def take_from(self, kernels: Any) -> np.ndarray:
        """The same numbers out of our kernels, for a net of several outputs a tuple."""
        kernel = kernels if self.output is None else kernels[self.output]
        array = np.asarray(kernel.ntk if self.name.startswith("ntk") else kernel.nngp)
        if self.diagonal_batch:
            array = np.moveaxis(np.diagonal(array), -1, 0)
        if self.diagonal_spatial:
            batch_ndim = 1 if self.diagonal_batch else 2
            batch, sizes = np.split(self.value.shape, [batch_ndim])
            positions = int(np.prod(sizes))
            array = array.reshape(*batch, positions, positions)
            array = np.diagonal(array, axis1=-2, axis2=-1).reshape(*batch, *sizes)
        return _symmetric(array, self.diagonal_spatial) if self.asymmetric else array


@dataclasses.dataclass(frozen=True, eq=False)
class ReferenceCase:
    """A network with its inputs, and the kernels the reference found."""

    name: str
    status: Status
    reason: str  # why it is not `supported`
    data: Any  # `load.Case`
    build: Build | None = None
    input_axes: Any = None
    output_axes: Any = None
    op: str = ""  # the operation an `unsupported` case waits for

    def inputs(self, tag: Literal["12", "11"]) -> tuple[Any, Any]:
        """`x1` and `x2`, examples and channels first; no `x2` for `x1` with itself."""
        return self._batch("x1"), self._batch("x2") if tag == "12" else None

    def joint_inputs(self) -> Any:
        """`x1` and then `x2` as one batch; `None` where they differ in shape."""
        batches = [self._batch("x1"), self._batch("x2")]
        leaves = [jax.tree.leaves(batch) for batch in batches]
        if any(a.shape[1:] != b.shape[1:] for a, b in zip(*leaves, strict=True)):
            return None
        return jax.tree.map(lambda *pair: np.concatenate(pair), *batches)

    def _batch(self, name: str) -> Any:
        multi = self.data.spec["inputs"]["multi"]
        batches = []
        for i, axes in enumerate(self.input_axes):
            x = self.data.arrays[f"{name}.{i}" if multi else name]
            order = sorted(
                range(x.ndim), key=lambda axis, axes=axes: _channels_first(axes[axis])
            )
            batches.append(self._signal(name[1], i, np.transpose(x, order), order))
        return tuple(batches) if multi else batches[0]

    def _signal(self, side: str, i: int, x: np.ndarray, order: list[int]) -> Any:
        """The input with its mask and its graph, in our types."""
        spec, arrays = self.data.spec, self.data.arrays
        multi = spec["inputs"]["multi"]
        signal: Any = x
        if spec["mask"] is not None:
            masked = arrays[f"mask{side}.{i}" if multi else f"mask{side}"]
            masked = np.transpose(masked, order)
            x = np.where(masked, 0, x)
            signal = nn.Masked(x, ~masked.all(1))
        if spec["pattern"]:
            pattern = arrays[f"pattern{side}"]
            if "sparse" in json.dumps(spec["net"]) or "edges_to" in json.dumps(spec):
                ends = [pattern[..., end] for end in (0, 1)]
                pattern = nn.Edges(*ends, np.ones(pattern.shape[:2]))
            signal = nn.Graph(signal, pattern)
        return signal

    def expected(self, tag: Literal["12", "11"]) -> list[Expected]:
        """The reference's finite arrays for this tag; none where it refused."""
        undecided = (self.name, tag) in reference_activations.UNDECIDED
        if undecided or not self.data.ok(tag):
            return []
        several = isinstance(self.output_axes, list)
        outputs = range(len(self.output_axes)) if several else [None]
        # `cov1_12` is `cov1_11`, and only the latter is to be had from our kernel.
        names = ("nngp", "ntk", "cov1") if tag == "11" else ("nngp", "ntk")
        arrays = [self._array(name, tag, out) for out in outputs for name in names]
        return [array for array in arrays if array is not None]

    def _array(self, name: str, tag: str, output: int | None) -> Expected | None:
        value = self.data.kernel(name, tag, output)
        if value is None or not np.all(np.isfinite(value)):
            return None
        flags = self.data.flags(tag, output)
        axes = self.output_axes if output is None else self.output_axes[output]
        label = f"{name}_{tag}" if output is None else f"{name}_{tag}.{output}"
        diagonal_batch = name == "cov1" and flags["diagonal_batch"]
        diagonal_spatial = flags["diagonal_spatial"]
        value = _our_order(value, axes, 1 if diagonal_batch else 2, diagonal_spatial)
        numerical = "elementwise_numerical" in self.data.meta["ops"]
        asymmetric = numerical and tag == "11" and not diagonal_batch
        if asymmetric:
            value = _symmetric(value, diagonal_spatial)
        facts = (diagonal_batch, diagonal_spatial, asymmetric)
        return Expected(label, output, *facts, value)


def _channels_first(axis: Any) -> int:
    return {"N": -2, "C": -1}.get(axis, axis)


def _our_order(
    value: np.ndarray, axes: Axes, batch_ndim: int, diagonal: bool
) -> np.ndarray:
    """`[*batch, A, A, B, B, ..]` as `[*batch, *positions1, *positions2]`."""
    spatial = _spatial(axes)
    rank = len(spatial)
    # Place, among the reference's spatial axes, of each of ours.
    places = [spatial.index(axis) for axis in range(rank)]
    if diagonal:
        order = [batch_ndim + place for place in places]
    else:
        order = [batch_ndim + 2 * place + side for side in (0, 1) for place in places]
    return np.transpose(value, (*range(batch_ndim), *order))


def _symmetric(value: np.ndarray, diagonal: bool) -> np.ndarray:
    """What is above the diagonal, below it too."""
    rank = 0 if diagonal else (value.ndim - 2) // 2
    positions = range(2, value.ndim)
    order = (1, 0, *positions[rank:], *positions[:rank])
    above = np.triu(np.ones(value.shape[:2], bool))
    above = above.reshape(*above.shape, *(1,) * len(positions))
    return np.where(above, value, value.transpose(order))


def widened(case: ReferenceCase, width: int) -> Any:
    """The network of a case with so many channels everywhere, to draw."""

    def wide(layer: Any) -> Any:
        if isinstance(layer, list):
            return [wide(one) for one in layer]
        if not isinstance(layer, dict):
            return layer
        sizes = {"width": width, "n_chan_key": 64, "n_chan_val": 64, "n_heads": 64}
        changed = {name: size for name, size in sizes.items() if name in layer}
        return {name: wide(value) for name, value in layer.items()} | changed

    spec = {**case.data.spec, "net": wide(case.data.spec["net"])}
    return _translate_case(spec, frozenset(case.data.meta["ops"]))[0]()


def _with_exact_functions(spec: Any, closed_forms: dict[str, dict]) -> Any:
    """The reference's kernel of an approximate function is that of the exact one."""
    if isinstance(spec, list):
        return [_with_exact_functions(one, closed_forms) for one in spec]
    if not isinstance(spec, dict):
        return spec
    if spec.get("op") == "elementwise" and spec["fn"] in closed_forms:
        return closed_forms[spec["fn"]]
    kept = {name: value for name, value in spec.items() if name != "approximate"}
    return {
        name: _with_exact_functions(value, closed_forms) for name, value in kept.items()
    }


def _read(path: pathlib.Path) -> ReferenceCase:
    data = load.load_case(path)
    name = path.stem
    large = name in reference_activations.LARGE_VARIANCES
    forms = reference_activations.CLOSED_FORMS if large else {}
    data.spec = _with_exact_functions(data.spec, forms)
    try:
        build, *axes = _translate_case(data.spec, frozenset(data.meta["ops"]))
    except Unsupported as error:
        return ReferenceCase(name, "unsupported", str(error), data, op=error.op)
    calls = data.meta["calls"].values()
    status, reason = "supported", ""
    if defects := data.meta.get("nt_bugs"):
        status, reason = "defect", ", ".join(defects)
    elif name == "named__fc_degenerate_sign":
        status, reason = "defect", "rounding turns an input away from itself"
    elif defect := reference_activations.DEFECTS.get(
        name
    ) or reference_activations.defect(data.spec["net"]):
        status, reason = "defect", defect
    elif all(call["status"] == "raised" for call in calls):
        status, reason = "refused", next(iter(calls))["message"]
    return ReferenceCase(name, status, reason, data, build, *axes)


@functools.cache
def _all_cases() -> list[ReferenceCase]:
    paths = [path for kind in ("named", "random") for path in load.cases(kind)]
    return [_read(path) for path in paths]


def cases(status: Status) -> list[ReferenceCase]:
    """Every case of that status."""
    return [case for case in _all_cases() if case.status == status]


def supported_cases() -> list[ReferenceCase]:
    """Cases our layers can express and the reference computed."""
    return cases("supported")


def main() -> None:
    """Print the coverage of the reference, and what the rest waits for."""
    totals = collections.Counter(
        (case.name.split("__")[0], case.status) for case in _all_cases()
    )
    for (kind, status), count in sorted(totals.items()):
        print(f"{kind:8}{status:12}{count:4}")
    waiting = collections.defaultdict(list)
    for case in cases("unsupported"):
        waiting[case.op].append(case)
    for op, group in sorted(waiting.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(group):4} wait for {op}")
        for case in group:
            print(f"     {case.name}: {case.reason}")
    for status, title in (("refused", "refused by"), ("defect", "wrong in")):
        print(f"\n{title} the reference")
        for case in cases(status):
            print(f"     {case.name}: {case.reason[:100]}")


if __name__ == "__main__":
    main()
