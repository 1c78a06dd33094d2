"""How patterns over positions fade in deep convolutional networks."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._arguments import described
from eqtangents._types import Scalar
from eqtangents.mean_field._block import SecondMoments, after_block
from eqtangents.mean_field._correlation_map import CorrelationMap
from eqtangents.predict._arguments import one_number


class SpatialModes(eqx.Module):
    """By how much each block multiplies waves over positions, at the fixed point.

    Frequencies are in the order of `jax.numpy.fft.fftn`; the first is the mean.

    **Attributes:**

    - `variance`: for waves of the variance of one signal.
    - `covariance`: for waves of the covariance of two signals that differ, at
        coinciding positions.
    """

    variance: Float[Array, "*size"]
    covariance: Float[Array, "*size"]


def spatial_modes(correlation_map: CorrelationMap, q0: Scalar = 1.0) -> SpatialModes:
    r"""How fast waves over positions fade, for blocks with periodic convolutions.

    Small deviations from the fixed point are multiplied by $\chi \lambda_k$ for each
    block, with $\lambda_k = \left|\sum_o a_o e^{2 \pi i k o / n}\right|$ of the window
    $a$, and $\chi$ the slope that signals without positions have.

    **Arguments:**

    - `correlation_map`: of the block, with the `size` of its signals.
    - `q0`: the variance that signals start with.

    **Returns:** a `SpatialModes` of arrays of that size; of NaN if signals grow without
    bound.

    **Raises:** `TypeError` if this is no map; what the map does.

    **Source:** Xiao et al. 2018, arXiv:1806.05393, section 2.2.
    """
    if not isinstance(correlation_map, CorrelationMap):
        raise TypeError(
            f"`correlation_map` is {described(correlation_map)}, but must be a "
            "`CorrelationMap` of a block, with the positions of its signals: "
            "`CorrelationMap(block, (8,))`."
        )
    q0 = one_number("q0", q0)
    block, size = correlation_map.block, correlation_map.size
    end = correlation_map.fixed_point(q0)
    q, z = (jnp.broadcast_to(x, size) for x in (end.q, 1 - end.c))
    state = SecondMoments.correlated(q, q, z)
    of_variance = lambda v: after_block(block, SecondMoments.equal(v)).variance1
    of_covariance = lambda k: after_block(block, state.with_covariance(k)).covariance
    return SpatialModes(
        _wave_factors(of_variance, q), _wave_factors(of_covariance, q * (1 - z))
    )


def _wave_factors(
    function: Callable[[Float[Array, "*size"]], Float[Array, "*size"]],
    at: Float[Array, "*size"],
) -> Float[Array, "*size"]:
    """By how much a translation-invariant function multiplies waves around a point.

    Its derivative is a circulant matrix, whose eigenvalues are the Fourier transform of
    its first column.
    """
    pulse = jnp.zeros_like(at).at[(0,) * at.ndim].set(1)
    return jnp.abs(jnp.fft.fftn(jax.jvp(function, (at,), (pulse,))[1]))
