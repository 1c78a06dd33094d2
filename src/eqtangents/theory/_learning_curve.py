"""How well kernel regression does on average, for each number of examples."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._arguments import described
from eqtangents._products import matmul
from eqtangents._roots import bisected, implicit_root
from eqtangents._types import NonNegative, ScalarOrBatch
from eqtangents.predict._arguments import number, real_array, refuse
from eqtangents.theory._modes import KernelModes


class LearningCurve(eqx.Module):
    r"""The mean errors of kernel ridge regression, from the modes of the kernel.

    With eigenvalues $\lambda_i$ under the distribution of inputs, a ridge $\delta$ on
    the diagonal of the kernel of $n$ examples acts as the resolution $\kappa$, of which

    $$\sum_i \frac{\lambda_i}{\lambda_i + \kappa} + \frac{\delta}{\kappa} = n.$$

    A mode is learned in part $L_i = \lambda_i / (\lambda_i + \kappa)$, and $\sum_i L_i
    \le n$, with equality without a ridge: what is learned is conserved. The mean
    squared error on new examples is

    $$\mathcal{E} = \frac{n}{n - \sum_i L_i^2} \Big(\sum_i (1 - L_i)^2 p_i +
    \sigma^2\Big)$$

    for targets with power $p_i$ in the modes and noise of variance $\sigma^2$, which
    new targets have as well. Derived for features that are Gaussian and independent, it
    is close for real data.

    **Source:** Simon et al. 2021, arXiv:2110.03922; Bordelon et al. 2020,
    arXiv:2002.02561; Canatar et al. 2021, arXiv:2006.13198.
    """

    modes: KernelModes
    target_power: Float[Array, " modes"]
    ridge: NonNegative
    noise: NonNegative

    def __init__(
        self,
        modes: KernelModes,
        target_power: Float[Array, " modes"],
        *,
        ridge: NonNegative = 0.0,
        noise: NonNegative = 0.0,
    ):
        r"""Take what is learned, and with what.

        **Arguments:**

        - `modes`: of the kernel. Its tail acts as a ridge.
        - `target_power`: the mean square of the target in each eigenvalue's modes, all
            multiplicities together.
        - `ridge`: added to the diagonal of the kernel, $\delta$.
        - `noise`: variance of the noise on targets, $\sigma^2$.

        **Raises:** `TypeError` if these are no modes, `ValueError` if there is not one
        power for each eigenvalue, `RuntimeError` if a number is negative or not finite.
        """
        if not isinstance(modes, KernelModes):
            raise TypeError(
                f"`modes` is {described(modes)}, but must be a `KernelModes`: that of "
                "`modes_on_sphere`, or the first of two results of `modes_of_data`."
            )
        target_power = real_array("target_power", target_power, modes.eigenvalues.dtype)
        if target_power.shape != modes.eigenvalues.shape:
            raise ValueError(
                f"`target_power` has shape {target_power.shape}, but there are "
                f"{modes.eigenvalues.shape[0]} eigenvalues: give one number for each."
            )
        least, most = (f(target_power, initial=0) for f in (jnp.min, jnp.max))
        negative = least < -1e-3 * most  # beyond rounding
        self.modes = modes
        self.target_power = refuse(target_power, (negative, _NEGATIVE_POWER))
        self.ridge, self.noise = number("ridge", ridge), number("noise", noise)

    def kappa(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        r"""The resolution: modes with eigenvalues well above it are learned.

        It falls from infinity to zero, and is zero if there are fewer modes than
        examples and no ridge.

        **Arguments:**

        - `n`: the number of examples, more than zero; an array for several.

        **Raises:** `RuntimeError` if a number is not above zero, or not finite.
        """
        return _resolutions(self.modes, self._ridge, self._examples(n))

    def learnability(self, n: ScalarOrBatch) -> Float[Array, "*batch modes"]:
        """The part of each mode's coefficient that is learned, from 0 to 1.

        **Arguments:** those of `kappa`.

        **Raises:** what `kappa` does.
        """
        return self._parts(self.kappa(n))[0]

    def bias(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        """The squared error of the mean prediction over training sets, and the noise.

        **Arguments:** those of `kappa`.

        **Raises:** what `kappa` does.
        """
        return self._bias(self.kappa(n))

    def variance(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        """The variance of predictions over training sets.

        **Arguments:** those of `kappa`.

        **Raises:** what `kappa` does.
        """
        kappa, n = self.kappa(n), self._examples(n)
        learned, _ = self._parts(kappa)
        squares = matmul(learned**2, self.modes.multiplicities)
        return self._inflated(kappa, n, squares / n * self._bias(kappa))

    def test_error(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        """The mean squared error on new examples with new noise.

        **Arguments:** those of `kappa`.

        **Raises:** what `kappa` does.
        """
        kappa, n = self.kappa(n), self._examples(n)
        return self._inflated(kappa, n, self._bias(kappa))

    def test_error_by_mode(self, n: ScalarOrBatch) -> Float[Array, "*batch modes"]:
        """The parts of the error, without the part that is due to noise.

        **Arguments:** those of `kappa`.

        **Raises:** what `kappa` does.
        """
        kappa, n = self.kappa(n), self._examples(n)
        _, missed = self._parts(kappa)
        power = jnp.expand_dims(self.target_power, range(kappa.ndim))
        inflated = jax.vmap(self._inflated, in_axes=(None, None, -1), out_axes=-1)
        return inflated(kappa, n, missed**2 * power)

    def train_error(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        r"""The mean squared error on the training examples themselves.

        It is $(\delta / n \kappa)^2$ times that on new ones. Where examples outnumber
        modes, $\delta / \kappa$ without a ridge is by how many.

        **Arguments:** those of `kappa`.

        **Raises:** what `kappa` does.
        """
        kappa, n = self.kappa(n), self._examples(n)
        total = self._ridge
        part = jnp.where(total > 0, self.ridge / jnp.where(total > 0, total, 1), 1)
        ratio = part * self._per_resolution(kappa, n) / n
        return self._inflated(kappa, n, ratio**2 * self._bias(kappa))

    @property
    def _ridge(self) -> Float[Array, ""]:
        """The ridge with the modes that are left out, none of which is learned."""
        return self.ridge + self.modes.tail

    def _examples(self, n: ScalarOrBatch) -> Float[Array, "*batch"]:
        n = real_array("n", n, self.modes.eigenvalues.dtype)
        return refuse(n, (~jnp.all(n > 0), _NO_EXAMPLES))

    def _parts(
        self, kappa: Float[Array, "*batch"]
    ) -> tuple[Float[Array, "*batch modes"], Float[Array, "*batch modes"]]:
        """By mode, what is learned and what is missed, each to all of its digits."""
        values, kappa = jnp.broadcast_arrays(
            jnp.expand_dims(jnp.maximum(self.modes.eigenvalues, 0), range(kappa.ndim)),
            kappa[..., None],
        )
        some = values + kappa > 0
        total = jnp.where(some, values + kappa, 1)
        return values / total, jnp.where(some, kappa / total, 1)

    def _bias(self, kappa: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        _, missed = self._parts(kappa)
        return matmul(missed**2, self.target_power) + self.noise

    def _per_resolution(
        self, kappa: Float[Array, "*batch"], n: Float[Array, "*batch"]
    ) -> Float[Array, "*batch"]:
        """The ridge, with the modes that are left out, divided by the resolution.

        Where examples outnumber modes it is by how many, and by what is missed of them:
        a sum of positive numbers, also where both ridge and resolution are zero.
        """
        _, missed = self._parts(kappa)
        rank, some = _rank(self.modes), kappa > 0
        counts = jnp.where(self.modes.eigenvalues > 0, self.modes.multiplicities, 0)
        not_learned = n - rank + matmul(missed, counts)
        quotient = self._ridge / jnp.where(some, kappa, 1)
        return jnp.where((n > rank) | ~some, not_learned, quotient)

    def _inflated(
        self,
        kappa: Float[Array, "*batch"],
        n: Float[Array, "*batch"],
        error: Float[Array, "*batch"],
    ) -> Float[Array, "*batch"]:
        """An error of the mean prediction, with what the spread of predictions adds.

        Without a ridge it has a pole where there are as many examples as modes.
        """
        learned, missed = self._parts(kappa)
        # This is `n` less the squares of what is learned, by the sum rule.
        spare = matmul(learned * missed, self.modes.multiplicities)
        spare += self._per_resolution(kappa, n)
        some = spare > 0
        pole = jnp.where(error > 0, jnp.full_like(error, jnp.inf), 0)
        return jnp.where(some, n / jnp.where(some, spare, 1) * error, pole)


_NO_EXAMPLES = (
    "`n` must be above zero: the number of examples. Without any, the error is the sum "
    "of `target_power` and `noise`."
)
_NEGATIVE_POWER = (
    "`target_power` has negative numbers, but is the mean square of the target in the "
    "modes of each eigenvalue. Of coefficients, take the squares."
)


@eqx.filter_jit
def _resolutions(
    modes: KernelModes, ridge: Float[Array, ""], n: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    return jnp.vectorize(partial(_resolution, modes, ridge))(n)


def _resolution(
    modes: KernelModes, ridge: Float[Array, ""], n: Float[Array, ""]
) -> Float[Array, ""]:
    """The root of the sum rule in `LearningCurve`, found by its logarithm.

    Its derivatives are those of the sum rule times the resolution, which are finite
    where that is zero: without a ridge, for more examples than modes.
    """
    values, counts = jnp.maximum(modes.eigenvalues, 0), modes.multiplicities

    def excess(kappa: Float[Array, ""]) -> Float[Array, ""]:
        # Learned modes are counted, less what is missed of them: small terms keep
        # their digits, where the spectrum has a gap at `n`.
        learned, total = values > kappa, values + kappa
        rest = jnp.where(learned, -kappa, values) / jnp.where(total > 0, total, 1)
        balance = jnp.sum(jnp.where(learned, counts, 0)) - n + jnp.sum(counts * rest)
        return kappa * balance + ridge

    def solve(
        excess: Callable[[Float[Array, ""]], Float[Array, ""]], upper: Float[Array, ""]
    ) -> tuple[Float[Array, ""], None]:
        rank = _rank(modes)
        # Bounds by the sum rule itself, if no eigenvalue is below the smallest.
        smallest = jnp.min(jnp.where(values > 0, values, jnp.inf), initial=jnp.inf)
        modes_spare = jnp.where(n < rank, (rank - n) / rank * smallest, 0)
        lower = jnp.log(jnp.maximum(ridge / n, modes_spare))
        exists = (ridge > 0) | (n < rank)
        lower = jnp.where(exists, lower, upper)

        def excess_at(log_kappa: Float[Array, ""]) -> Float[Array, ""]:
            kappa = jnp.exp(log_kappa)
            found = excess(kappa) / (n * kappa)
            return jnp.where(exists, found, upper - log_kappa)

        root = bisected(excess_at, upper + 1, lower - 1)
        return jnp.where(exists, jnp.exp(root), 0), None

    upper = jnp.log((jnp.sum(counts * values) + ridge) / n)
    return implicit_root(excess, upper, solve)[0]


def _rank(modes: KernelModes) -> Float[Array, ""]:
    """How many modes can be learned."""
    return jnp.sum(jnp.where(modes.eigenvalues > 0, modes.multiplicities, 0))
