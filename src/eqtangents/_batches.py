"""The arguments of kernels, checked: the network, and batches of inputs.

The checks run here, outside of anything that is compiled, so that errors are raised
where users call.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Real

from eqtangents._arguments import described
from eqtangents._kernel_habits import NOT_RANDOM
from eqtangents._networks import (
    check_independent,
    check_network,
    check_tokens,
    takes_integers,
)
from eqtangents._types import is_concrete
from eqtangents.nn import AbstractLayer, Edges, Graph, Masked
from eqtangents.nn._inputs import Signal, is_signal, values_of, with_equal_edges


# A `Batch`, as type checkers see it, of a network with one input and of any network.
OneBatch: TypeAlias = Real[Array | np.ndarray, "n *rest"] | Masked | Graph
NestedBatch: TypeAlias = OneBatch | Sequence["NestedBatch"]


def checked_arguments(
    net: Any, x1: Any, x2: Any
) -> tuple[AbstractLayer, PyTree[Signal], PyTree[Signal] | None]:
    """A network and its inputs, which are arrays of JAX in tuples and fit each other.

    **Raises:** `TypeError`, `ValueError` and `LayerError`, in words.
    """
    check_network(net, x1)
    for name, x in (("x1", x1), ("x2", x2)):
        _check_habits(name, x)
    x1 = _signals("x1", x1)
    x2 = None if x2 is None else _signals("x2", x2)
    if any(map(_has_integers, (x1, x2))) and takes_integers(net):
        x1 = _in_floating_point("x1", x1)
        x2 = None if x2 is None else _in_floating_point("x2", x2)
    for name, x in (("x1", x1), ("x2", x2)):
        _check_batch(name, x)
    if x2 is not None:
        x1, x2 = _alike(x1, x2)
    check_independent(net)
    check_tokens(net, x1, x2)
    return net, x1, x2


def _check_habits(name: str, x: Any) -> None:
    """Raise for what is never a batch, but is written by habit."""
    strings = x if isinstance(x, tuple | list) else (x,)
    if strings and all(isinstance(one, str) for one in strings):
        raise TypeError(
            f"`{name}` is {described(x)}, but must be a batch of inputs. To choose a "
            "kernel write `eqt.kernel(net, x1, x2).ntk` or `.nngp`, or compute one "
            "alone by `eqt.ntk(net, x1, x2)` or `eqt.nngp(net, x1, x2)`."
        )
    if isinstance(x, AbstractLayer):
        raise TypeError(
            f"`{name}` is {described(x)}, but must be a batch of inputs. The network "
            "comes first, and there is one: `eqt.kernel(net, x1, x2)`."
        )
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"`{name}` is a random key, but must be a batch of inputs. {NOT_RANDOM}"
        )


def _signals(name: str, x: Any) -> PyTree[Signal]:
    """Inputs in tuples, as arrays of JAX."""
    if is_signal(x):
        return x
    if isinstance(x, np.ndarray) and x.dtype.kind not in "OSUMm":
        return jnp.asarray(x)
    if isinstance(x, tuple | list) and x:
        if not all(isinstance(one, int | float | np.number) for one in _flat(x)):
            return tuple(_signals(name, one) for one in x)
    needed = "a batch of inputs, an array `(n, channels, *spatial)`"
    convert = f"convert it, by `jnp.asarray({name})`, say"
    if x is None or isinstance(x, str | bool | int | float | complex | np.number):
        convert = "for a network with several inputs, give a tuple of arrays"
    if isinstance(x, jax.ShapeDtypeStruct):
        convert = "shapes alone are `jax.eval_shape(lambda x: eqt.kernel(net, x), x)`"
    elif isinstance(x, dict):
        convert = "for a network with several inputs, give a tuple of arrays"
    raise TypeError(
        f"`{name}` is or holds {described(x)}, but must be {needed}: {convert}."
    )


def _flat(x: Any) -> Iterator[Any]:
    if isinstance(x, tuple | list):
        for one in x:
            yield from _flat(one)
    else:
        yield x


def _has_integers(x: PyTree[Signal] | None) -> bool:
    given = () if x is None else map(values_of, _flat(x))
    return any(jnp.issubdtype(values.dtype, jnp.integer) for values in given)


def _in_floating_point(name: str, x: PyTree[Signal]) -> PyTree[Signal]:
    """Integers as floating-point numbers, of the type of the other inputs."""
    types = [values_of(signal).dtype for signal in _flat(x)]
    floating = [one for one in types if jnp.issubdtype(one, jnp.floating)]
    dtype = floating[0] if floating else jnp.zeros(()).dtype
    most = 2 ** (jnp.finfo(dtype).nmant + 1)

    def one(signal: Signal) -> Signal:
        if isinstance(signal, Graph | Masked):
            return eqx.tree_at(lambda x: x.value, signal, one(signal.value))
        values = signal
        if not jnp.issubdtype(values.dtype, jnp.integer):
            return values
        if is_concrete(values) and np.abs(values).max(initial=0) > most:
            raise ValueError(
                f"`{name}` has integers beyond {most}, which {dtype} cannot hold. "
                "Kernels have the floating-point type of the inputs: number tokens "
                "from 0 on, or use inputs of a wider type."
            )
        return values.astype(dtype)

    return jax.tree.map(one, x, is_leaf=is_signal)


def _check_batch(name: str, x: PyTree[Signal] | None) -> None:
    """Raise unless these are batches of as many examples, of one type."""
    if x is None:
        return
    signals = list(_flat(x))
    for signal in signals:
        _check_signal(name, signal)
    if len(signals) == 1 and isinstance(signals[0], jax.Array):
        return
    types = sorted({str(values_of(signal).dtype) for signal in signals})
    if len(types) > 1:
        raise ValueError(
            f"The inputs in `{name}` have dtypes {', '.join(types)}, but a kernel "
            "has one dtype. Convert them to the same."
        )
    sizes = sorted({leaf.shape[0] for leaf in jax.tree.leaves(x)})
    if len(sizes) > 1:
        raise ValueError(
            f"The inputs in `{name}` have {sizes} examples, but must have as many "
            "of each kind."
        )


def _check_signal(name: str, signal: Signal) -> None:
    """Raise unless this is a batch of inputs of one kind."""
    values = values_of(signal)
    if values.ndim < 2:
        raise ValueError(
            f"`{name}` has shape {values.shape}, but a batch of inputs has a leading "
            "axis of examples and one of channels, `(n, channels, *spatial)`. For one "
            "example, pass `x[None]`; for examples of one feature, `x[:, None]`; for a "
            "list of examples, `jnp.stack(x)`."
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"`{name}` has dtype {values.dtype}, but kernels are computed in the dtype "
            "of the inputs, which must be a floating-point one. Convert it, for "
            f"example by `{name}.astype(jnp.float32)`."
        )
    if 0 in values.shape[1:]:
        missing = "channels" if values.shape[1] == 0 else "positions"
        raise ValueError(
            f"`{name}` has shape {values.shape}, and so no {missing}, but inputs are "
            "`(n, channels, *spatial)` with at least one of each. Only the number of "
            "examples may be 0."
        )
    mask = _mask(signal)
    positions = (values.shape[0], *values.shape[2:])
    if mask is not None and mask.shape != positions:
        raise ValueError(
            f"The mask in `{name}` has shape {mask.shape}, but its values have "
            f"shape {values.shape}. A mask tells which positions there are, "
            f"{positions}: `(n, *spatial)`, for all channels alike."
        )
    _check_finite(name, signal)


def _mask(signal: Signal) -> Bool[Array, "..."] | None:
    masked = signal.value if isinstance(signal, Graph) else signal
    return masked.mask if isinstance(masked, Masked) else None


def _check_finite(name: str, signal: Signal) -> None:
    """Raise for values that are known not to be numbers, where there are positions."""
    bad = _where_not_finite(values_of(signal))
    mask = _mask(signal)
    if mask is not None and bad.any() and is_concrete(mask):
        bad = bad & np.expand_dims(np.asarray(mask), 1)
    elif mask is not None and not is_concrete(mask):
        return
    what = "values"
    if isinstance(signal, Graph) and not bad.any():
        what, bad = "weights of edges", _bad_weights(signal.adjacency)
    if not bad.any():
        return
    rows = np.flatnonzero(bad.reshape(bad.shape[0], -1).any(1))
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    raise ValueError(
        f"`{name}` has {what} that are NaN or infinite, in {len(rows)} of its "
        f"{bad.shape[0]} examples: {shown}. Leave these out, `{name}[jnp.isfinite("
        f"{name}).reshape(len({name}), -1).all(1)]`; missing positions are told by "
        "`nn.Masked(value, mask)`."
    )


def _where_not_finite(x: Float[Array | np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Where known values are NaN or infinite; without any, one `False`."""
    if not is_concrete(x):
        return np.zeros((1, 1), bool)
    finite = np.isfinite(np.asarray(x))
    return np.zeros((1, 1), bool) if finite.all() else ~finite


def _bad_weights(adjacency: Any) -> Bool[np.ndarray, "..."]:
    if not isinstance(adjacency, Edges):
        return _where_not_finite(adjacency)
    bad = _where_not_finite(adjacency.weights)
    for ends in (adjacency.senders, adjacency.receivers):
        if bad.any() and is_concrete(ends):  # edges without ends do not count
            ends = np.asarray(ends)
            bad = bad & (ends.reshape(*bad.shape, -1) >= 0).all(-1)
    return bad


def _alike(
    x1: PyTree[Signal], x2: PyTree[Signal]
) -> tuple[PyTree[Signal], PyTree[Signal]]:
    """Inputs that fit each other: with masks if one has, graphs with as many edges."""
    first, structure = jax.tree.flatten(x1, is_leaf=is_signal)
    second, other = jax.tree.flatten(x2, is_leaf=is_signal)
    if structure != other:
        raise ValueError(
            f"`x1` is {_described_inputs(x1)} and `x2` {_described_inputs(x2)}, but "
            "both must be what the network takes: an array, or a tuple with an array "
            "for each input."
        )
    pairs = [_alike_pair(a, b) for a, b in zip(first, second, strict=True)]
    x1, x2 = ([pair[i] for pair in pairs] for i in (0, 1))
    return jax.tree.unflatten(structure, x1), jax.tree.unflatten(structure, x2)


def _described_inputs(x: PyTree[Signal]) -> str:
    if not isinstance(x, tuple):
        return described(x)
    return f"a tuple of {len(x)} ({', '.join(map(_described_inputs, x))})"


def _alike_pair(a: Signal, b: Signal) -> tuple[Signal, Signal]:
    """One input of each batch, with masks and graphs alike, or an error in words."""
    if isinstance(a, Graph) != isinstance(b, Graph):
        names = ("x1", "x2") if isinstance(a, Graph) else ("x2", "x1")
        raise ValueError(
            f"`{names[0]}` has a graph and `{names[1]}` none, but a network aggregates "
            f"over both or neither: pass `nn.Graph({names[1]}, adjacency)`, where an "
            "identity matrix connects each position with itself alone."
        )
    if (_mask(a) is None) != (_mask(b) is None):
        a, b = _with_mask(a), _with_mask(b)
    a, b = with_equal_edges(a, b)
    if jax.tree.structure(a) != jax.tree.structure(b):
        raise ValueError(
            "The graphs in `x1` and `x2` are of two kinds, an array and `nn.Edges`. "
            "Give both as arrays, or both as edges."
        )
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if one.shape[1:] != other.shape[1:] or one.dtype != other.dtype:
            raise ValueError(
                f"One example of `x1` has shape {one.shape[1:]} and dtype {one.dtype}, "
                f"one of `x2` {other.shape[1:]} and {other.dtype}, but a kernel "
                "compares examples of one kind: channels first, `(n, channels, "
                "*spatial)`. Sequences of different lengths become alike by "
                "`nn.Masked.pad`."
            )
    return a, b


def _with_mask(signal: Signal) -> Signal:
    """The same input with a mask, which has all positions if it had none."""
    value = signal.value if isinstance(signal, Graph) else signal
    if not isinstance(value, Masked):
        value = Masked(value, jnp.ones((value.shape[0], *value.shape[2:]), bool))
    return Graph(value, signal.adjacency) if isinstance(signal, Graph) else value
