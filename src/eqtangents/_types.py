"""Type aliases of public annotations."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

from jaxtyping import Array, Float


# A hyperparameter: a Python number is a compile-time constant; an array is a leaf that
# can be differentiated and changed without compiling again.
Scalar: TypeAlias = float | int | Float[Array, ""]

# Outside of the input: nothing is read, zeros, or the input over again; or so many
# zeros on both sides, on all axes alike or before and after each.
Padding: TypeAlias = (
    Literal["VALID", "SAME", "CIRCULAR"] | int | Sequence[tuple[int, int]]
)
