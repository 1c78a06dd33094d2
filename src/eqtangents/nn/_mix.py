"""Positions mixed by a matrix that is an input of the network."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents.covariance import AbstractCovariance, Mapped
from eqtangents.nn._inputs import unwrap
from eqtangents.nn._layer import (
    AbstractParameterless,
    Covariances,
    Example,
    LayerError,
    many_inputs,
)


class Mix(AbstractParameterless):
    r"""Multiply the positions by a matrix that comes with each example.

    $$y_q = \sum_p A_{qp} x_p, \qquad K' = A K A'^T$$

    and $T'$ alike, over the first spatial axis. It takes two values: the matrix, a
    function of the network's input with one channel, and what is multiplied.
    `Aggregate` does it for the `Graph` of an input.

    **Cost:** as `Aggregate`.
    """

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: tuple[Example, Example], *, key: PRNGKeyArray | None = None
    ) -> Array:
        (matrix, _), (value, _) = map(unwrap, x)
        return jax.vmap(lambda one: _multiplied(matrix[0], one))(value)

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        matrix, value = many_inputs(self, covariance)
        if matrix.examples is None:
            raise LayerError(
                self,
                "multiplies by a matrix that is random. It must be an input of the "
                "network, or a function of one.",
            )
        matrices = matrix.examples[:, 0]
        size = (matrices.shape[1], *value.outline.size[1:])
        return Mapped(value, size, _multiplied, lambda scope: matrices, mask=None)


def _multiplied(
    matrix: Float[Array, "q p"], values: Float[Array, "p *rest"]
) -> Float[Array, "q *rest"]:
    matrix = matrix.astype(values.dtype)
    return jnp.tensordot(matrix, values, 1, precision=lax.Precision.HIGHEST)
