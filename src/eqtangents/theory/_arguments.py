"""Checks of arguments that several functions have."""

from jaxtyping import Array, Float

from eqtangents.predict._arguments import of_floats, real_array
from eqtangents.predict._definiteness import NOT_SEMIDEFINITE
from eqtangents.predict._kernel_matrix import checked_kernel
from eqtangents.predict._spectrum import Factors, Spectrum


def kernel_matrix(name: str, value: object) -> Float[Array, "n n"]:
    """A kernel of some inputs with themselves.

    **Raises:** `TypeError` if it is no array of real numbers, `ValueError` if it is no
    square matrix, `RuntimeError` if it is not finite or not symmetric.
    """
    matrix = of_floats(name, value)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(
            f"`{name}` has shape {matrix.shape}, but a square matrix is needed, the "
            "kernel of some inputs with themselves: `eqtangents.ntk(net, x)`, say."
        )
    return checked_kernel(name, matrix)


def spectrum_of(
    name: str, matrix: Float[Array, "n n"], factors: Factors | None = None
) -> Spectrum:
    """The spectrum of a kernel, without what is known to be rounding.

    **Raises:** `RuntimeError` if an eigenvalue is below zero by more than that.
    """
    message = NOT_SEMIDEFINITE.replace("{name}", name)
    return Spectrum(matrix, factors=factors, message=message)


def target_columns(value: object, kernel: Float[Array, "n n"]) -> Float[Array, "n k"]:
    """Targets, of which there is a row for each row of a kernel.

    **Raises:** what `real_array` does, `ValueError` if they do not fit.
    """
    targets = real_array("targets", value, kernel.dtype)
    n = kernel.shape[0]
    if targets.ndim != 2 or targets.shape[0] != n:
        raise ValueError(
            f"`targets` has shape {targets.shape}, but the kernel is one of {n} "
            "inputs: one row is needed for each, `targets[:, None]` for one output."
        )
    return targets
