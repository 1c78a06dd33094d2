"""The two kernels of a network, however they were found."""

import equinox as eqx
from jaxtyping import Array, Float


class Kernel(eqx.Module):
    """The NNGP and the neural tangent kernel of a network, of infinite or finite width.

    Both have the axes of the examples, `(n1, n2)`, and then one or two for each axis of
    the outputs that is left: without a readout a network of infinite width has
    positions, `(n1, n2, *size, *size)`; a finite one has whatever was neither traced
    nor taken on the diagonal. Kernels of each example with itself begin with one `(n)`.
    Predictors take either.
    """

    nngp: Float[Array, "n1 *n2_and_outputs"]
    ntk: Float[Array, "n1 *n2_and_outputs"]
