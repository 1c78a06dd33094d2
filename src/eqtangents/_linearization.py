"""Networks replaced by their Taylor polynomials in the parameters."""

from collections.abc import Callable
from typing import Any, Generic, overload

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from eqtangents._arguments import checked_integer, described
from eqtangents._hidden import hidden, revealed
from eqtangents._jaxpr import Untraced
from eqtangents._kernel_habits import FINITE_HABITS
from eqtangents._parameters import (
    Model,
    Trainable,
    call,
    check_called,
    check_picks,
    check_trained,
    is_state,
    marked,
    missing_state,
    needs_state,
    params_of,
)
from eqtangents._series import taylor
from eqtangents._signatures import names_checked
from eqtangents._trees import One, Params, difference


class TaylorModel(eqx.Module, Generic[Model]):
    """A module replaced by its Taylor polynomial in its parameters.

    It is called as the module was, but without the state, if that was given. The
    parameters, `params`, move: optimisers train them as they would train the module's
    own. The point of expansion, the state and all other leaves stay, and are held
    where no optimiser, weight decay or cast finds them.
    """

    params: Params
    center: Params
    state: Params
    order: int = eqx.field(static=True)

    @property
    def model(self) -> Model:
        """The module itself, not expanded, with the parameters as they are now."""
        center = revealed(self.center)
        return eqx.combine(_placed(self.params, center), center)

    @overload
    def __call__(self, x: One, /, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the polynomial; it takes the arguments of the module."""
        center = revealed(self.center)
        moving = _placed(self.params, center)
        start, rest = eqx.partition(center, marked(moving))
        given = [node for node in (*args, *kwargs.values()) if is_state(node)]
        model = eqx.combine(moving, rest)
        if self.state is None and not given and needs_state(model):
            raise missing_state(model)

        def outputs(params: PyTree[Array]) -> Any:
            whole = eqx.combine(params, rest)
            return call(whole, revealed(self.state), *args, **kwargs)

        return _taylor_polynomial(outputs, start, moving, self.order)


class TaylorFunction(eqx.Module):
    """A function of parameters and inputs replaced by a polynomial in the former.

    It is called as the function was, with parameters first, but without the state, if
    that was given. Those that are not trainable stay as they were at the point of
    expansion.
    """

    function: Callable[..., Any]
    start: Params
    rest: Params
    state: Params
    order: int = eqx.field(static=True)

    @overload
    def __call__(
        self, params: Params, x: One, /, *, key: PRNGKeyArray | None = None
    ) -> Array: ...
    @overload
    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any: ...
    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the polynomial; it takes the arguments of the function."""
        start, rest = revealed(self.start), revealed(self.rest)
        try:
            moving = eqx.filter(params, marked(start))
        except ValueError:
            unlike = difference(params, eqx.combine(start, rest))
            raise ValueError(
                f"`params` is {described(params)}, which {unlike}, compared with the "
                "parameters at the point of expansion. Pass a tree like those."
            ) from None

        def outputs(moved: PyTree[Array]) -> Any:
            whole = eqx.combine(moved, rest)
            return call(self.function, revealed(self.state), whole, *args, **kwargs)

        return _taylor_polynomial(outputs, start, moving, self.order)


@overload
def linearize(
    model: Model,
    params: None = None,
    *,
    trainable: Trainable = None,
    state: eqx.nn.State | None = None,
) -> TaylorModel[Model]: ...
@overload
def linearize(
    model: Callable[..., Any],
    params: Params,
    *,
    trainable: Trainable = None,
    state: eqx.nn.State | None = None,
) -> TaylorFunction: ...
@names_checked(FINITE_HABITS)
def linearize(
    model: Callable[..., Any],
    params: Params | None = None,
    *,
    trainable: Trainable = None,
    state: eqx.nn.State | None = None,
) -> TaylorModel[Any] | TaylorFunction:
    r"""The network that is linear in its parameters, tangent to a given one.

    $$f^{\mathrm{lin}}_\theta(x) = f_{\theta_0}(x)
    + \partial_\theta f_{\theta_0}(x)\,(\theta - \theta_0)$$

    Trained on the squared error, it follows its neural tangent kernel exactly, at any
    width. Arguments, result and errors are as in `eqtangents.taylorize`.

    **Cost:** about twice the cost of the network.

    **Source:** Lee et al. 2019, arXiv:1902.06720.
    """
    return taylorize(model, 1, params, trainable=trainable, state=state)


@overload
def taylorize(
    model: Model,
    order: int,
    params: None = None,
    *,
    trainable: Trainable = None,
    state: eqx.nn.State | None = None,
) -> TaylorModel[Model]: ...
@overload
def taylorize(
    model: Callable[..., Any],
    order: int,
    params: Params,
    *,
    trainable: Trainable = None,
    state: eqx.nn.State | None = None,
) -> TaylorFunction: ...
@names_checked(FINITE_HABITS)
def taylorize(
    model: Callable[..., Any],
    order: int,
    params: Params | None = None,
    *,
    trainable: Trainable = None,
    state: eqx.nn.State | None = None,
) -> TaylorModel[Any] | TaylorFunction:
    r"""The network that is a polynomial in its parameters, tangent to a given one.

    $$f^{(d)}_\theta(x) = \sum_{k=0}^d \frac{1}{k!}
    \frac{\mathrm{d}^k}{\mathrm{d} t^k}
    f_{\theta_0 + t (\theta - \theta_0)}(x) \Big|_{t=0}$$

    **Arguments:**

    - `model`: an Equinox module, or another pytree that can be called; or, if `params`
        are given, a function `f(params, ...)`.
    - `order`: the degree $d$; 0 is the network as it is, 1 linear in its parameters.
    - `params`: the parameters $\theta_0$ of a function.
    - `trainable`: which leaves of the module, or of `params`, are parameters: a test of
        leaves, or a tree of booleans. Of those it picks, floating-point and complex
        arrays are; all others stay fixed. By default all are but hyperparameters of
        layers of `eqtangents.nn`, such as a `weight_std` that is an array;
        `eqx.is_inexact_array` picks these too.
    - `state`: the state of the model's layers, as it came from
        `eqx.nn.make_with_state`. The network is then called as `model(x, state)`, with
        this state always, and the new state that it returns is dropped.

    **Returns:** a `TaylorModel` that is called as the module is, and holds the
    parameters that move; for a function a `TaylorFunction`, called as the function is.
    Either can be jitted, differentiated and mapped like the original.

    ```python
    tangent = eqt.linearize(model)
    outputs = jax.vmap(tangent)(xs)  # as of the model, until `tangent` is trained
    ```

    **Raises:** `ValueError` if the order is negative, if there is nothing to train, if
    what is given cannot be called, or has state that is not given; `TypeError` if an
    argument is of another kind.

    **Cost:** polynomial in the order: layers pay a few times `order`, products of two
    activations and nonlinearities its square, and rarely its cube.

    **Source:** Bai et al. 2020, arXiv:2002.04010.
    """
    order = checked_integer(
        "order",
        order,
        0,
        "It is the degree of a polynomial: 1 gives the linearized network, 0 the "
        "network as it is.",
    )
    # Without its state here, a model may still be called with it later.
    check_called(model, model if params is None else params, state)
    whole = model if params is None else params
    check_picks(trainable)
    start = params_of(whole, trainable)
    check_trained(model, params, start)
    if params is None:
        return TaylorModel(start, hidden(model), hidden(state), order)
    rest = eqx.filter(params, marked(start), inverse=True)
    return TaylorFunction(model, hidden(start), hidden(rest), hidden(state), order)


def _placed(params: PyTree, tree: PyTree) -> PyTree:
    """The same parameters in a tree that has the same places.

    The structure of another network's parameters may differ only because its functions,
    which are not parameters, were made anew.
    """
    is_none = lambda leaf: leaf is None
    (leaves, _), (places, structure) = (
        jax.tree_util.tree_flatten_with_path(one, is_leaf=is_none)
        for one in (params, tree)
    )
    if [path for path, _ in leaves] != [path for path, _ in places]:
        return params
    return jax.tree.unflatten(structure, [leaf for _, leaf in leaves])


def _taylor_polynomial(
    outputs: Callable[[PyTree[Array]], Any],
    start: PyTree[Array],
    params: PyTree[Array],
    order: int,
) -> Any:
    """The polynomial of `outputs` around `start`, at `params`."""
    if unlike := difference(params, start):
        raise ValueError(
            f"The tree of parameters now {unlike}, compared with that at the point of "
            "expansion. Change values alone."
        )
    for now, before in zip(
        jax.tree.leaves(params), jax.tree.leaves(start), strict=True
    ):
        if jnp.shape(now) != before.shape:
            raise ValueError(
                f"A parameter now has shape {jnp.shape(now)}, but had {before.shape} "
                "at the point of expansion. Change values alone."
            )
    step = jax.tree.map(lambda a, b: a - b, params, start)

    def arrays(params: PyTree[Array]) -> tuple[PyTree[Array], Untraced]:
        found, rest = eqx.partition(outputs(params), eqx.is_array)
        return found, Untraced(rest)

    found, rest = taylor(arrays, start, step, order)
    return eqx.combine(found, rest.value)
