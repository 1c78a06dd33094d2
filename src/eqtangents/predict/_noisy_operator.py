"""Functions of a kernel with its noise that is known by its products alone."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents.predict._arguments import branch_of, refuse
from eqtangents.predict._chebyshev import approximated
from eqtangents.predict._spectrum import SpectralFunction, Spectrum
from eqtangents.predict._training_set import NO_MATRIX
from eqtangents.solvers import BlockCG, GramOperator, solve
from eqtangents.solvers._lanczos import Image, matrix_function_times
from eqtangents.solvers._operator import noise_of


_NOT_SETTLED = """
Outputs at finite times did not settle to `rtol` within `max_steps` products with the
operator.

(a) Raise `max_steps` of the `BlockCG`, or its `rtol`.
(b) The end of training, `t=jnp.inf`, needs fewer products, with a preconditioner.
""".strip()


class NoisyOperator(eqx.Module):
    """A kernel with noise, as an operator, where `NoisyKernel` has a matrix."""

    operator: GramOperator
    solver: BlockCG

    @property
    def spectrum(self) -> Spectrum:
        """Not without a matrix."""
        raise ValueError(NO_MATRIX)

    @property
    def rounding(self) -> Float[Array, ""]:
        """None: there is noise."""
        return jnp.zeros((), self.operator.dtype)

    def apply(
        self, function: SpectralFunction, columns: Float[Array, "n columns"]
    ) -> Float[Array, "times n columns"]:
        r"""$f(K) v$ for each column $v$.

        By a solve at times where the function is the inverse to rounding, and by
        Lanczos' method at all others.

        **Raises:** `RuntimeError` if either does not converge.
        """
        inverse = self._is_inverse(function)
        shape = (inverse.shape[0], *columns.shape)
        solution = branch_of(
            jnp.any(inverse),
            lambda: solve(self.operator, columns, self.solver).value,
            lambda: jnp.zeros_like(columns),
        )
        image = branch_of(
            jnp.all(inverse),
            lambda: Image(
                jnp.zeros(shape, columns.dtype), jnp.zeros((), columns.dtype)
            ),
            lambda: self._image(function, inverse, columns),
        )
        wrong = ~(image.change <= self.solver.rtol)
        value = refuse(image.value, (wrong, _NOT_SETTLED))
        return jnp.where(inverse[:, None, None], solution[None], value)

    def _is_inverse(self, function: SpectralFunction) -> Bool[Array, " times"]:
        """At which times it is that, on all eigenvalues that there may be."""
        operator = lax.stop_gradient(self.operator)
        noise = noise_of(operator)
        low = jnp.min(noise)
        # No eigenvalue is larger than the trace.
        high = 1.01 * jnp.sum(operator.backing.diagonal() + noise)
        return approximated(lax.stop_gradient(function), low, high, 0).inverse

    @eqx.filter_jit
    def _image(
        self,
        function: SpectralFunction,
        inverse: Bool[Array, " times"],
        columns: Float[Array, "n columns"],
    ) -> Image:
        def others(values: Float[Array, " steps"]) -> Float[Array, "times steps"]:
            return jnp.where(inverse[:, None], 0, function(values))

        solver = self.solver
        return matrix_function_times(
            self.operator.multiply, columns, others, solver.rtol, solver.max_steps
        )
