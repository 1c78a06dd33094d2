"""Networks replaced by their Taylor polynomials in the parameters."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact, PyTree, UInt

from eqtangents._series import taylor


# Which leaves of a module are trainable: a test of leaves, or a tree of booleans with
# the module's structure or a prefix of it.
Trainable: TypeAlias = Callable[[Any], bool] | PyTree[bool]


class TaylorModel(eqx.Module):
    """A module replaced by its Taylor polynomial in its trainable leaves.

    It is called as the module was. The trainable leaves, `params`, move: optimisers
    train them as they would train those of the module. The point of expansion and all
    other leaves stay, and are held where no optimiser, weight decay or cast finds them.
    """

    params: PyTree[Array]
    center: PyTree
    order: int = eqx.field(static=True)

    @property
    def model(self) -> Any:
        """The module itself, not expanded, with the parameters as they are now."""
        return eqx.combine(self.params, _released(self.center))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the polynomial; arguments are those of the module."""
        moving = jax.tree.map(
            lambda leaf: leaf is not None,
            self.params,
            is_leaf=lambda leaf: leaf is None,
        )
        start, rest = eqx.partition(_released(self.center), moving)

        def call(params: PyTree[Array]) -> Any:
            return eqx.combine(params, rest)(*args, **kwargs)

        return _expanded(call, start, self.params, self.order)


class TaylorFunction(eqx.Module):
    """A function of parameters and inputs replaced by a polynomial in the former.

    It is called as the function was, with parameters first. Those that are not
    floating-point or complex stay as they were at the point of expansion.
    """

    function: Callable[..., Any]
    center: PyTree
    order: int = eqx.field(static=True)

    def __call__(self, params: PyTree, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the polynomial; arguments are those of the function."""
        start, rest = eqx.partition(_released(self.center), eqx.is_inexact_array)
        params = eqx.filter(params, eqx.is_inexact_array)

        def call(params: PyTree[Array]) -> Any:
            return self.function(eqx.combine(params, rest), *args, **kwargs)

        return _expanded(call, start, params, self.order)


def linearize(
    model: Callable[..., Any],
    params: PyTree | None = None,
    *,
    trainable: Trainable = eqx.is_inexact_array,
) -> TaylorModel | TaylorFunction:
    r"""The network that is linear in its parameters, tangent to a given one.

    $$f^{\mathrm{lin}}_\theta(x) = f_{\theta_0}(x)
    + \partial_\theta f_{\theta_0}(x)\,(\theta - \theta_0)$$

    Trained on the squared error, it follows its neural tangent kernel exactly, at any
    width. Arguments, result and errors are those of `eqtangents.taylorize`.

    **Cost:** about twice that of the network.

    **Source:** Lee et al. 2019, arXiv:1902.06720.
    """
    return taylorize(model, 1, params, trainable=trainable)


def taylorize(
    model: Callable[..., Any],
    order: int,
    params: PyTree | None = None,
    *,
    trainable: Trainable = eqx.is_inexact_array,
) -> TaylorModel | TaylorFunction:
    r"""The network that is a polynomial in its parameters, tangent to a given one.

    $$f^{(d)}_\theta(x) = \sum_{k=0}^d \frac{1}{k!}
    \frac{\mathrm{d}^k}{\mathrm{d} t^k}
    f_{\theta_0 + t (\theta - \theta_0)}(x) \Big|_{t=0}$$

    **Arguments:**

    - `model`: an Equinox module, or another pytree that can be called; or, if `params`
        are given, a function `f(params, ...)`.
    - `order`: the degree $d$; 0 is the network as it is, 1 linear in its parameters.
    - `params`: the parameters $\theta_0$ of a function.
    - `trainable`: which leaves of a module are parameters: a test of leaves, or a tree
        of booleans. Of those it picks, floating-point and complex arrays are; all
        others stay fixed. Parameters of a function are all of its `params`.

    **Returns:** a `TaylorModel` that is called as the module is, and holds the
    parameters that move; for a function a `TaylorFunction`, called as the function is.
    Either can be jitted, differentiated and mapped like the original.

    ```python
    tangent = eqt.linearize(model)
    outputs = jax.vmap(tangent)(xs)  # those of the model, until `tangent` is trained
    ```

    **Raises:** `ValueError` if the order is negative, if there is nothing to train, or
    if what is given cannot be called.

    **Cost:** polynomial in the order: layers pay a few times `order`, products of two
    activations and nonlinearities its square, and rarely its cube.

    **Source:** Bai et al. 2020, arXiv:2002.04010.
    """
    if order < 0:
        raise ValueError(
            f"`order` is {order}, but the degree of a polynomial must not be negative. "
            "1 gives the linearized network, 0 the network as it is."
        )
    if not callable(model):
        raise ValueError(
            f"`model` is a {type(model).__name__}, which cannot be called. Give a "
            "module, or a function of parameters and inputs together with `params`."
        )
    start = params_of(model, trainable) if params is None else params
    if not jax.tree.leaves(eqx.filter(start, eqx.is_inexact_array)):
        raise ValueError(nothing_trainable(model, params))
    if params is None:
        return TaylorModel(start, _fixed(model), order)
    return TaylorFunction(model, _fixed(params), order)


def params_of(model: Any, trainable: Trainable) -> PyTree[Array]:
    """The parameters of a module, with `None` in place of its other leaves."""
    return eqx.filter(eqx.filter(model, trainable), eqx.is_inexact_array)


def nothing_trainable(model: Any, params: PyTree | None) -> str:
    """What to say of a network without parameters."""
    if params is not None:
        return (
            "`params` has no floating-point or complex arrays, so there is nothing to "
            "differentiate in. Convert integer parameters, or check the argument order."
        )
    return (
        f"No leaf of the {type(model).__name__} is trainable: `trainable` must pick at "
        "least one floating-point or complex array. A network of `eqtangents.nn` has "
        "parameters after `init`; for a plain function pass its `params`."
    )


def _expanded(
    call: Callable[[PyTree[Array]], Any],
    start: PyTree[Array],
    params: PyTree[Array],
    order: int,
) -> Any:
    """The polynomial of `call` around `start`, at `params`."""
    if jax.tree.structure(start) != jax.tree.structure(params):
        raise ValueError(
            f"The parameters are now a {jax.tree.structure(params)}, but were a "
            f"{jax.tree.structure(start)} at the point of expansion."
        )
    step = jax.tree.map(lambda a, b: a - b, params, start)
    static = []

    def arrays(params: PyTree[Array]) -> PyTree[Array]:
        found, rest = eqx.partition(call(params), eqx.is_array)
        static.append(rest)
        return found

    found = taylor(arrays, start, step, order)
    return eqx.combine(found, static[0])


class _Bits(eqx.Module):
    """An array stored as integers.

    What trains, decays, averages or casts a network selects its floating-point leaves,
    and would find the point of expansion too: a stopped gradient does not stop those.
    """

    parts: tuple[UInt[Array, "..."], ...]
    dtype: Any = eqx.field(static=True)

    def __init__(self, value: Inexact[Array, "..."]):
        """Store a floating-point or complex array."""
        value = jnp.asarray(value)
        self.dtype = value.dtype
        pair = (value.real, value.imag) if jnp.iscomplexobj(value) else (value,)
        self.parts = tuple(
            lax.bitcast_convert_type(part, f"uint{8 * part.dtype.itemsize}")
            for part in pair
        )

    @property
    def value(self) -> Inexact[Array, "..."]:
        """The array."""
        if not jnp.issubdtype(self.dtype, jnp.complexfloating):
            return lax.bitcast_convert_type(self.parts[0], self.dtype)
        real = jnp.finfo(self.dtype).dtype
        return lax.complex(*(lax.bitcast_convert_type(p, real) for p in self.parts))


def _is_bits(node: Any) -> bool:
    return isinstance(node, _Bits)


def _fixed(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: _Bits(x) if eqx.is_inexact_array(x) else x, tree)


def _released(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.value if _is_bits(x) else x, tree, is_leaf=_is_bits)
