"""The two kernels of a network, however they were found."""

import equinox as eqx
from jaxtyping import Array, Float


class Kernel(eqx.Module):
    """The NNGP and the neural tangent kernel of a network, of infinite or finite width.

    The axes of both are those of the examples, `(n1, n2)`, and then those of outputs
    that are told apart: of a network of infinite width the positions, if it has no
    readout, `(n1, n2, *size, *size)`; of a finite one what was neither traced nor taken
    on the diagonal. Of each example with itself alone, the first axis is `(n)`.
    Predictors take either.
    """

    nngp: Float[Array, "n1 *n2_and_outputs"]
    ntk: Float[Array, "n1 *n2_and_outputs"]
