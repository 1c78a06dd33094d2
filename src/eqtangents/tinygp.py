"""Infinitely wide networks as kernels of tinygp.

They are imported from here, `from eqtangents.tinygp import NetworkKernel`, and need
tinygp: `pip install 'eqtangents[tinygp]'`.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._covariance_function import (
    Kind,
    checked_kind,
    diagonal_of,
    matrix_of,
)
from eqtangents._extras import needed
from eqtangents.nn import AbstractLayer


_kernels = needed("tinygp.kernels", "tinygp", "`eqtangents.tinygp`")


class NetworkKernel(_kernels.Kernel):
    """The kernel of an infinitely wide network, for `tinygp.GaussianProcess`.

    Matrices are computed at once, as `eqtangents.nngp` does, and not pair by pair. A
    sum or product with another kernel is computed pair by pair, as tinygp does.
    Hyperparameters that are arrays are leaves of the kernel, which can be
    differentiated in.

    ```python
    kernel = 2.0 * NetworkKernel(net)
    posterior = tinygp.GaussianProcess(kernel, x, diag=0.1).condition(y, x_test)
    ```

    **Arguments:**

    - `net`: a network of `eqtangents.nn` with one output for each example.
    - `kind`: `"nngp"`, the covariance of the outputs, or `"ntk"`.

    Inputs are arrays `(n, channels, *spatial)`, or `(n,)` for single numbers.

    **Raises:** `TypeError` for what is no network, `ValueError` for other kinds, and
    for a network with outputs at several positions.
    """

    net: AbstractLayer
    kind: Kind = eqx.field(static=True)

    def __init__(self, net: AbstractLayer, kind: Kind = "nngp"):
        """Keep the network."""
        self.kind, self.net = checked_kind(net, kind), net

    def evaluate(
        self, X1: Float[Array, "*shape"], X2: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
        """The kernel of two examples."""
        one, other = jnp.asarray(X1)[None], jnp.asarray(X2)[None]
        return matrix_of(self.net, self.kind, _channels(one), _channels(other))[0, 0]

    def evaluate_diag(self, X: Float[Array, "*shape"]) -> Float[Array, ""]:
        """The kernel of an example with itself."""
        return diagonal_of(self.net, self.kind, _channels(jnp.asarray(X)[None]))[0]

    def __call__(
        self,
        X1: Float[Array, "n1 *shape"],
        X2: Float[Array, "n2 *shape"] | None = None,
    ) -> Float[Array, "n1 n2"] | Float[Array, " n1"]:
        """The kernel of two batches; without the second, of each example with itself.

        **Raises:** `ValueError` if the network has outputs at several positions.
        """
        x1 = _channels(jnp.asarray(X1))
        if X2 is None:
            return diagonal_of(self.net, self.kind, x1)
        x2 = None if X2 is X1 else _channels(jnp.asarray(X2))
        return matrix_of(self.net, self.kind, x1, x2)


def _channels(x: Float[Array, "n *shape"]) -> Float[Array, "n channels *spatial"]:
    """Single numbers as inputs of one channel."""
    return x[:, None] if x.ndim == 1 else x
