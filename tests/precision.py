"""What the precision of the running test decides.

Tests run in single and in double precision, by the fixture `precision`. These are read
while a test runs: when test files are imported, no precision is in force.
"""

from typing import TypeVar

import jax.numpy as jnp


Choice = TypeVar("Choice")

# JAX takes this as float32 or float64, whichever is in force.
DTYPE = float


def is_double() -> bool:
    """Whether the running test is in double precision."""
    return jnp.result_type(float) == jnp.float64


def by_precision(*, float64: Choice, float32: Choice) -> Choice:
    """One of two values: the tolerance of a comparison, say."""
    return float64 if is_double() else float32
