"""Products of matrices with all digits of their type, on every device.

GPUs and TPUs multiply float32 with fewer, unless each product asks for more: enough to
train a network, too few to invert a kernel matrix or to subtract what nearly cancels.
"""

import functools

import jax.numpy as jnp
from jax import lax


einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
tensordot = functools.partial(jnp.tensordot, precision=lax.Precision.HIGHEST)
