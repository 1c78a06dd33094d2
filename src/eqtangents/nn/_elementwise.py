"""Nonlinearities without closed form, and any that users bring."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance import (
    AbstractDual,
    ExpandedDual,
    Expansion,
    GeluDual,
    GivenDual,
    dense_expansion,
    expand,
)
from eqtangents.nn._activations import AbstractActivation
from eqtangents.nn._layer import LayerError


_LARGEST_VARIANCE = 30.0


def _tolerance() -> float:
    """As far as the type of the inputs allows, in general."""
    return 1e-6 if jnp.result_type(float) == jnp.float64 else 1e-5


_expand_once = functools.cache(expand)


def _expanded(fn: Callable) -> ExpandedDual:
    """The dual of a function that depends on nothing."""
    expansion, _ = _expand_once(fn, _tolerance(), _LARGEST_VARIANCE)
    return ExpandedDual(fn, expansion)


def _expansion(
    fn: Callable, tolerance: float, largest_variance: float
) -> tuple[Expansion, float]:
    """An expansion, and its error as far as that is known.

    A function of arrays that change, in training or within `jit`, gets the first
    terms as they are: weights would hold for the present values alone.
    """
    if not any(map(eqx.is_array, jax.tree.leaves(fn))):
        try:
            return expand(fn, tolerance, largest_variance)
        except jax.errors.TracerArrayConversionError:
            pass
    return dense_expansion(), 0.0


class Elementwise(AbstractActivation):
    r"""Any function of one number.

    Its kernel is given by its Hermite expansion: with $u = s z$, $v = s' z'$ and the
    correlation $\rho$,

    $$K' = \sum_l r_l(s)\, r_l(s')\, \rho^l, \qquad
    r_l(s) = \mathbb{E}\, f(s z)\, h_l(z)$$

    where $r_l$ is found by quadrature in one dimension, once for each example and
    position. $T'$ needs the same of $f'$, which is `jax.jvp` of the function. A few
    dozen terms stand for the first thousand, so that kinks and jumps at zero are dealt
    with; kinks elsewhere converge slowly where two inputs nearly coincide.

    **Arguments:**

    - `fn`: maps an array to one of its shape, entry by entry, by functions of JAX. A
        `Module` or other pytree of parameters is differentiated. `None` if the network
        is of infinite width alone; then a `dual` is needed.
    - `dual`: the closed form, if known: maps arrays `(cov, var1, var2)` of one shape to
        $\mathbb{E} f(u) f(v)$.
    - `dual_derivative`: a closed form of $\mathbb{E} f'(u) f'(v)$; without it, that is
        the derivative of `dual` in `cov`.
    - `tolerance`: largest relative error of the expansion at variances up to
        `largest_variance`. 1e-6 with JAX's 64-bit mode, else 1e-5. At larger variances
        it is less accurate, and kernels are NaN where they would be off by more than
        1 % (or ten times the tolerance).

    **Raises:** `ValueError` if neither function nor dual is given, or if the expansion
    cannot be that accurate.

    **Cost:** per entry, some 15 to 40 multiplications and additions for each of $K'$
    and $T'$, about one to three times the closed form of `Relu`.

    **Source:** Mehler's formula; Daniely et al. 2016, arXiv:1602.05897, section 4.1.
    """

    fn: Callable | None
    given: GivenDual | None
    expansion: Expansion | None = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable | None = None,
        *,
        dual: Callable | None = None,
        dual_derivative: Callable | None = None,
        tolerance: float | None = None,
        largest_variance: float = _LARGEST_VARIANCE,
    ):
        """Choose the terms of the expansion, if there is no closed form."""
        self.fn = fn
        self.given = None if dual is None else GivenDual(dual, dual_derivative)
        self.expansion = None
        if fn is None and dual is None:
            raise ValueError(
                "Elementwise: has neither a function nor a dual. Give `fn`, for "
                "networks of any width, or `dual`, for those of infinite width."
            )
        if fn is not None and dual is None:
            tolerance = _tolerance() if tolerance is None else tolerance
            self.expansion, error = _expansion(fn, tolerance, largest_variance)
            if error > tolerance:
                raise ValueError(
                    f"Elementwise: the kernel of {fn} by Hermite expansion is off by "
                    f"{error:.1e} at variances up to {largest_variance:g}, relatively, "
                    f"but `tolerance` is {tolerance:g}. Raise the tolerance, lower "
                    "`largest_variance` if the inputs have smaller variances, or give "
                    "a closed form, `dual`."
                )

    @property
    def dual(self) -> AbstractDual:
        """The closed form, or the expansion."""
        return self._expanded if self.given is None else self.given

    @property
    def _expanded(self) -> ExpandedDual:
        assert self.fn is not None
        assert self.expansion is not None
        return ExpandedDual(self.fn, self.expansion)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The function."""
        if self.fn is None:
            raise LayerError(
                self,
                "was given no function, only a `dual`, and so exists in networks of "
                "infinite width alone. Give it `fn` as well.",
            )
        return self.fn(x)

    def errors(
        self, variance: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        r"""Estimated relative errors of $\mathbb{E} f f$ and $\mathbb{E} f' f'$.

        At equal inputs of some variances, where the expansion converges most slowly, by
        comparison with a finer quadrature that expands nothing. NaN where the kernels
        are.

        **Raises:** `ValueError` if the layer has a closed form.
        """
        if self.expansion is None:
            raise ValueError(
                "Elementwise: was given a `dual`, and so there is no expansion whose "
                "errors could be estimated."
            )
        return self._expanded.errors(variance)


class Tanh(AbstractActivation):
    """The hyperbolic tangent. Its kernel is an expansion, as that of `Elementwise`."""

    @property
    def dual(self) -> ExpandedDual:
        """A Hermite expansion."""
        return _expanded(jnp.tanh)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The hyperbolic tangent."""
        return jnp.tanh(x)


class Sigmoid(AbstractActivation):
    """The logistic sigmoid. Its kernel is an expansion, as that of `Elementwise`."""

    @property
    def dual(self) -> ExpandedDual:
        """A Hermite expansion."""
        return _expanded(jax.nn.sigmoid)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The logistic sigmoid."""
        return jax.nn.sigmoid(x)


class Softplus(AbstractActivation):
    r"""$\log(1 + e^x)$. Its kernel is an expansion, as that of `Elementwise`."""

    @property
    def dual(self) -> ExpandedDual:
        """A Hermite expansion."""
        return _expanded(jax.nn.softplus)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """A smooth rectifier."""
        return jax.nn.softplus(x)


class Silu(AbstractActivation):
    r"""$x / (1 + e^{-x})$. Its kernel is an expansion, as that of `Elementwise`.

    **Source:** Elfwing et al. 2018, arXiv:1702.03118; also known as swish.
    """

    @property
    def dual(self) -> ExpandedDual:
        """A Hermite expansion."""
        return _expanded(jax.nn.silu)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The input times its sigmoid."""
        return jax.nn.silu(x)


class Selu(AbstractActivation):
    r"""An `Elu` scaled to keep mean 0 and variance 1. Its kernel is an expansion.

    **Source:** Klambauer et al. 2017, arXiv:1706.02515.
    """

    @property
    def dual(self) -> ExpandedDual:
        """A Hermite expansion."""
        return _expanded(jax.nn.selu)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The scaled exponential linear unit."""
        return jax.nn.selu(x)


class Elu(AbstractActivation):
    r"""$x$ for $x > 0$, else $\alpha (e^x - 1)$. Its kernel is an expansion.

    **Source:** Clevert et al. 2016, arXiv:1511.07289.
    """

    alpha: Scalar
    expansion: Expansion = eqx.field(static=True)

    def __init__(self, alpha: Scalar = 1.0):
        r"""Set $-\alpha$, the limit for very negative inputs."""
        self.alpha = alpha
        self.expansion, _ = _expansion(self.function, _tolerance(), _LARGEST_VARIANCE)

    @property
    def dual(self) -> ExpandedDual:
        """A Hermite expansion."""
        return ExpandedDual(self.function, self.expansion)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The exponential linear unit."""
        return jax.nn.elu(x, jnp.asarray(self.alpha, x.dtype))


class Gelu(AbstractActivation):
    r"""$x\, \Phi(x)$ with the normal distribution function $\Phi$.

    Its kernel is a closed form. With `approximate`, the function is
    $\frac{x}{2} (1 + \tanh(\sqrt{2 / \pi}\, (x + 0.044715\, x^3)))$, whose kernel is
    another one, an expansion as that of `Elementwise`.

    **Source:** Hendrycks & Gimpel 2016, arXiv:1606.08415; kernel: Tsuchida et al. 2021,
    arXiv:2002.08517.
    """

    approximate: bool = eqx.field(static=True)

    def __init__(self, approximate: bool = False):
        """Choose the function itself, or its approximation by a hyperbolic tangent."""
        self.approximate = approximate

    @property
    def dual(self) -> AbstractDual:
        """The closed form, or the expansion."""
        return _expanded(_gelu_by_tanh) if self.approximate else GeluDual()

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The input times its probability to be above a standard normal variable."""
        return jax.nn.gelu(x, approximate=self.approximate)


def _gelu_by_tanh(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jax.nn.gelu(x, approximate=True)
