"""The kernel of a network, with the methods of GPJax's kernels."""

import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import lineax as lx
from jaxtyping import Array, Float, PyTree

from eqtangents._arguments import described
from eqtangents._covariance_function import (
    WhichCovariance,
    checked_covariance,
    covariance_matrix,
    own_covariances,
)
from eqtangents._extras import needed
from eqtangents.nn import AbstractLayer


_gpjax_kernels = needed("gpjax.kernels", "gpjax", "`eqtangents.gpjax`")
_computations = needed("gpjax.kernels.computations", "gpjax", "`eqtangents.gpjax`")


class _OfBatches(_computations.AbstractKernelComputation):
    """Computes matrices at once, and not pair by pair."""

    def _cross_covariance(
        self, kernel: "NetworkKernel", x: Array, y: Array
    ) -> Float[Array, "n m"]:
        return covariance_matrix(
            kernel.net, kernel.kind, kernel.examples(x), kernel.examples(y)
        )

    def _gram(self, kernel: "NetworkKernel", x: Array) -> Float[Array, "n n"]:
        return covariance_matrix(kernel.net, kernel.kind, kernel.examples(x), None)

    def _diagonal(self, kernel: "NetworkKernel", inputs: Array) -> Any:
        diagonal = own_covariances(kernel.net, kernel.kind, kernel.examples(inputs))
        operator = lx.DiagonalLinearOperator(diagonal)
        return lx.TaggedLinearOperator(operator, lx.positive_semidefinite_tag)


class NetworkKernel(_gpjax_kernels.AbstractKernel):
    """The kernel of an infinitely wide network, for the priors of GPJax.

    Matrices are computed at once, as `eqtangents.nngp` does, and not pair by pair. A
    sum or product with another kernel is computed pair by pair, as GPJax does.
    Hyperparameters that are arrays are leaves of the kernel, which can be
    differentiated in, and which `gpjax.fit` trains; numbers stay as they are.

    ```python
    prior = gpjax.gps.Prior(NetworkKernel(net), gpjax.mean_functions.Zero())
    ```

    **Arguments:**

    - `net`: a network of `eqtangents.nn` with one output for each example.
    - `kind`: `"nngp"`, the covariance of the outputs, or `"ntk"`.
    - `shape`: of one example, `(channels, *spatial)`, for inputs with positions, which
        GPJax keeps as rows of numbers.
    - `active_dims`: columns of the inputs that the network takes, by default all.

    **Raises:** `TypeError` for what is no network or no shape, `ValueError` for other
    kinds, for columns or numbers that inputs do not have, and for a network with
    outputs at several positions.
    """

    name: ClassVar[str] = "Network"

    _arrays: PyTree[Array | None]
    _rest: "_Unchanged" = eqx.field(static=True)
    kind: WhichCovariance = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        net: AbstractLayer,
        kind: WhichCovariance = "nngp",
        *,
        shape: tuple[int, ...] = (-1,),
        active_dims: list[int] | slice | None = None,
    ):
        """Keep the network."""
        self.kind = checked_covariance(net, kind)
        self._arrays, rest = eqx.partition(net, eqx.is_array)
        self._rest = _Unchanged(rest)
        if not isinstance(shape, tuple):
            raise TypeError(
                f"`shape` is {described(shape)}, but must be the shape of one example, "
                "`(channels, *spatial)`: `shape=(3, 32, 32)`, say."
            )
        self.shape = shape
        base = _gpjax_kernels.AbstractKernel.__init__
        base(self, active_dims=active_dims, compute_engine=_OfBatches())

    @property
    def net(self) -> AbstractLayer:
        """The network."""
        return eqx.combine(self._arrays, self._rest.value)

    def __call__(
        self, x: Float[Array, " d"], y: Float[Array, " d"]
    ) -> Float[Array, ""]:
        """The kernel of two examples."""
        one, other = self.examples(x[None]), self.examples(y[None])
        return covariance_matrix(self.net, self.kind, one, other)[0, 0]

    def examples(self, x: Float[Array, "n d"]) -> Float[Array, "n channels *spatial"]:
        """The inputs of the network in rows of numbers."""
        columns, dims = x.shape[1], self.active_dims
        if isinstance(dims, list) and not all(-columns <= i < columns for i in dims):
            raise ValueError(
                f"`active_dims` is {dims}, but inputs have {columns} columns."
            )
        x = self.slice_input(x)
        size = math.prod(self.shape)
        if x.shape[1] % size if size < 0 else x.shape[1] != size:
            raise ValueError(
                f"`shape` is {self.shape}, of {abs(size)} numbers, but a row of inputs "
                f"has {x.shape[1]}. Give the shape of one example."
            )
        return x.reshape(x.shape[0], *self.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class _Unchanged:
    """What a network is but for its arrays, compared by identity.

    `gpjax.fit` takes all leaves of a kernel for arrays.
    """

    value: AbstractLayer
