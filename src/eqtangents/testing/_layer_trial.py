"""A network around a layer on trial, of finite and of infinite width."""

from typing import Any, Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from eqtangents import nn
from eqtangents._kernel import kernel
from eqtangents._kernel_pair import Kernel
from eqtangents.nn._inputs import Adjacency, values_of


LayerLaw: TypeAlias = Literal[
    "shapes", "symmetry", "positivity", "swap", "batching", "masks", "finite width"
]

EXAMPLES, FEATURES = 4, 3
# Draws of finite networks, some at a time: in a loop of JAX's, convolutions are slow.
DRAWS, _AT_A_TIME = 256, 32


class LayerTrial(NamedTuple):
    """A network around a layer, and what it is given."""

    layer: nn.AbstractLayer
    shape: tuple[int, ...]
    x: Float[Array, "n features *size"]
    adjacency: Adjacency | None
    key: PRNGKeyArray
    finite_bias: float | int

    @property
    def before(self) -> nn.Sequential:
        """Weights and the layer: what comes before the readout."""
        first = nn.Linear(self.shape[0], weight_std=1.2, bias_std=0.3)
        return nn.Sequential([first, self.layer])

    @property
    def net(self) -> nn.Sequential:
        last = nn.Linear(1, weight_std=1.1, bias_std=0.2)
        return nn.Sequential([self.before, nn.GlobalAvgPool(), last])

    def kernel(self, x1: Any, x2: Any = None) -> Kernel:
        """The kernel of the network, which has one output."""
        one: Any = kernel(self.net, x1, x2)
        return one

    def drawn(self) -> Any:
        """The network with parameters. Any network might have outputs in a tuple."""
        return self.net.init(self.x.shape[1:], key=self.key)

    def keys(self) -> Array:
        """A key for the pass of each example."""
        return jr.split(self.key, EXAMPLES)

    def signal(
        self,
        x: Float[Array, "n features *size"] | None = None,
        mask: Bool[Array, "n *size"] | None = None,
    ) -> Any:
        """The batch, with a mask and graphs if there are any."""
        values = self.x if x is None else x
        signal: Any = values if mask is None else nn.Masked(values, mask)
        return signal if self.adjacency is None else nn.Graph(signal, self.adjacency)

    def is_random(self) -> bool:
        """Whether one draw of the network is different at each call."""
        model, one = self.drawn(), take(self.signal(), 0)
        keys = self.keys()
        first, second = (values_of(model(one, key=keys[i])) for i in (0, 1))
        return bool(jnp.any(first != second))

    def failed(self, law: LayerLaw, message: str) -> AssertionError:
        return AssertionError(
            f"{type(self.layer).__name__} breaks the law of {law}: {message}"
        )

    def compare(
        self, law: LayerLaw, what: str, actual: Any, expected: Any, within: float
    ) -> None:
        """Raise unless two arrays agree within a share of the largest entry."""
        actual, expected = np.asarray(actual), np.asarray(expected)
        error = np.abs(actual - expected)
        error = np.where(np.isnan(error), np.inf, error)
        bound = within * np.abs(expected).max()
        at = np.unravel_index(error.argmax(), error.shape)
        if error[at] <= bound:
            return
        raise self.failed(
            law,
            f"{what} at {tuple(map(int, at))} is {actual[at]:.6g}, but should be "
            f"{expected[at]:.6g}: {error[at]:.3g} off, where {bound:.3g} is rounding.",
        )

    def compare_kernels(self, law: LayerLaw, a: Kernel, b: Kernel, what: str) -> None:
        rounding = 1e-11 if a.nngp.dtype == np.float64 else 2e-5
        for name in ("nngp", "ntk"):
            first, second = getattr(a, name), getattr(b, name)
            self.compare(law, f"the {name} {what}", first, second, rounding)


def take(signal: Any, index: int | slice) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], signal)


def kernels_of_draws(
    trial: LayerTrial,
) -> list[Float[np.ndarray, "draws n n"]]:
    """The NNGP and the NTK of drawn networks, by their definitions."""
    x = trial.signal()

    def one(key: PRNGKeyArray) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
        key, *keys = jr.split(key, 1 + EXAMPLES)
        model: Any = trial.net.init(trial.x.shape[1:], key=key)
        parameters, rest = eqx.partition(model, eqx.is_inexact_array)

        def output(parameters: Any, x: Any, key: PRNGKeyArray) -> Float[Array, ""]:
            return values_of(eqx.combine(parameters, rest)(x, key=key))[0]

        out, slopes = jax.vmap(jax.value_and_grad(output), (None, 0, 0))(
            parameters, x, jnp.stack(keys)
        )
        leaves = [leaf.reshape(EXAMPLES, -1) for leaf in jax.tree.leaves(slopes)]
        rows = jnp.concatenate(leaves, 1)
        return jnp.outer(out, out), rows @ rows.T

    some = eqx.filter_jit(jax.vmap(one))
    keys = jr.split(trial.key, (DRAWS // _AT_A_TIME, _AT_A_TIME))
    draws = [jax.tree.map(np.asarray, some(batch)) for batch in keys]
    return [np.concatenate(parts).astype(float) for parts in zip(*draws, strict=True)]
