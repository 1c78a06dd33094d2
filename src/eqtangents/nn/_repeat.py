"""One layer many times over."""

from typing import Any, overload

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

from eqtangents._types import CountOrZero, Depth, is_concrete, plain
from eqtangents.covariance import (
    AbstractCovariance,
    Repeated,
    ShapeChange,
    after_steps,
)
from eqtangents.nn._containers import check_are_layers
from eqtangents.nn._layer import (
    AbstractLayer,
    Covariances,
    Example,
    LayerError,
    Output,
    Shape,
    error_path,
    missing_parameters,
    one_input,
    shape_after,
)
from eqtangents.nn._rates import Differing, of_copies


class Repeat(AbstractLayer):
    """A layer `n` times over, each time with parameters of its own, compiled once.

    The layer must keep the shape of its input. The copies run in a scan, with their
    parameters stacked along a new leading axis.

    With a `depth`, networks of all depths up to `n` are one program. Mapped over depths
    it passes through all layers once, and gives the kernels after each of them:

    ```python
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    import eqtangents as eqt
    from eqtangents import nn

    block = nn.Sequential([nn.Relu(), nn.Linear(64, weight_std=2**0.5)])
    x = jax.random.normal(jax.random.key(0), (5, 3))


    def at_depth(depth):
        layers = [nn.Linear(64), nn.Repeat(block, 100, depth=depth)]
        return eqt.kernel(nn.Sequential(layers), x)


    kernels = jax.vmap(at_depth)(jnp.arange(101))
    assert kernels.ntk.shape == (101, 5, 5)
    ```

    **Cost:** with a `depth` that of all `n` copies, whose states are kept, and then of
    what follows for each depth that it is mapped over.
    """

    layer: AbstractLayer
    copies: AbstractLayer | None
    n: int = eqx.field(static=True)
    depth: Int[Array, ""] | None

    def __init__(
        self, layer: AbstractLayer, n: CountOrZero, *, depth: Depth | None = None
    ):
        """Repeat a layer.

        **Arguments:**

        - `layer`: the layer.
        - `n`: the number of copies; without any, inputs stay as they are.
        - `depth`: how many copies the input passes through, from the first on: an
            array of one integer from 0 to `n`, which may be traced, so that one program
            serves all depths. By default it passes through all.
        """
        self.layer, self.copies, self.n = layer, None, plain(n)
        self.depth = None if depth is None else jnp.asarray(depth)

    def __check_init__(self):
        """Raise unless this is a layer, and there are as many copies."""
        check_are_layers(self, (self.layer,))
        if self.depth is None or not is_concrete(self.depth):
            return
        if not 0 <= self.depth <= self.n:
            raise ValueError(
                f"Repeat: `depth` is {self.depth}, but must be from 0 to `n`, the "
                f"number of copies, which is {self.n}."
            )

    def init(self, input_shape: Shape, *, key: PRNGKeyArray | None = None) -> "Repeat":
        """Initialise all copies, for inputs of the same shape."""
        with error_path("layer"):
            one = eqx.filter_eval_shape(
                lambda k: self.layer.init(input_shape, key=k), key
            )
            shape = shape_after(one, input_shape)
        if shape != input_shape:
            raise LayerError(
                self,
                f"its layer must keep the shape of its input, so that it can follow "
                f"itself, but turns {input_shape} into {shape}.",
            )
        keys = None if key is None else jr.split(key, self.n)
        copies = eqx.filter_vmap(
            lambda k: self.layer.init(input_shape, key=k), axis_size=self.n
        )(keys)
        return eqx.tree_at(
            lambda layer: layer.copies, self, copies, is_leaf=lambda leaf: leaf is None
        )

    @overload
    def __call__(self, x: Array, *, key: PRNGKeyArray | None = None) -> Array: ...
    @overload
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Output: ...
    def __call__(self, x: Example, *, key: PRNGKeyArray | None = None) -> Any:
        if self.copies is None:
            raise missing_parameters(self)
        parameters, rest = eqx.partition(self.copies, eqx.is_array)

        def step(x: Example, copy: tuple) -> Example:
            layer = eqx.combine(copy[0], rest)
            with error_path("layer"):
                return layer(x, key=copy[1])

        keys = None if key is None else jr.split(key, self.n)
        return after_steps(step, x, (parameters, keys), self.n, self.depth)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        """Propagate through all copies, in a scan."""
        covariance = one_input(self, covariance)
        if not self.n:
            return covariance

        stacked, copy = of_copies(self.layer, self.copies)

        def layer(one: AbstractCovariance, own: Differing) -> AbstractCovariance:
            with error_path("layer"):
                return one_input(self, copy(own).propagate(one))

        try:
            return Repeated(
                covariance, layer, self.n, stacked=stacked, depth=self.depth
            )
        except ShapeChange as error:
            raise LayerError(self, str(error)) from None
