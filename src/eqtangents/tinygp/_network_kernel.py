"""The kernel of a network, with the methods of tinygp's kernels."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._covariance_function import (
    WhichCovariance,
    checked_covariance,
    covariance_matrix,
    own_covariances,
)
from eqtangents._extras import needed
from eqtangents.nn import AbstractLayer


_tinygp_kernels = needed("tinygp.kernels", "tinygp", "`eqtangents.tinygp`")


class NetworkKernel(_tinygp_kernels.Kernel):
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
    kind: WhichCovariance = eqx.field(static=True)

    def __init__(self, net: AbstractLayer, kind: WhichCovariance = "nngp"):
        """Keep the network."""
        self.kind, self.net = checked_covariance(net, kind), net

    def evaluate(
        self, X1: Float[Array, "*shape"], X2: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
        """The kernel of two examples."""
        one, other = jnp.asarray(X1)[None], jnp.asarray(X2)[None]
        one, other = _channels(one), _channels(other)
        return covariance_matrix(self.net, self.kind, one, other)[0, 0]

    def evaluate_diag(self, X: Float[Array, "*shape"]) -> Float[Array, ""]:
        """The kernel of an example with itself."""
        return own_covariances(self.net, self.kind, _channels(jnp.asarray(X)[None]))[0]

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
            return own_covariances(self.net, self.kind, x1)
        x2 = None if X2 is X1 else _channels(jnp.asarray(X2))
        return covariance_matrix(self.net, self.kind, x1, x2)


def _channels(x: Float[Array, "n *shape"]) -> Float[Array, "n channels *spatial"]:
    """Single numbers as inputs of one channel."""
    return x[:, None] if x.ndim == 1 else x
