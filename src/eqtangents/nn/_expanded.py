"""Nonlinearities whose kernels are Hermite expansions, or may be."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.duals import AbstractDual, FittedDual, GeluDual
from eqtangents.nn._activations import AbstractActivation


class AbstractExpanded(AbstractActivation):
    r"""A nonlinearity whose kernel is the Hermite expansion of its function.

    $$K' = \sum_l r_l(s)\, r_l(s')\, \rho^l, \qquad
    r_l(s) = \mathbb{E}\, f(s z)\, h_l(z)$$

    with the correlation $\rho = k / (s s')$; `FittedDual` says how accurately.
    """

    @property
    def dual(self) -> FittedDual:
        """The expansion of the function."""
        return FittedDual(self.function)


class Tanh(AbstractExpanded):
    r"""The hyperbolic tangent. $K' = \sum_l r_l(s)\, r_l(s')\, \rho^l$.

    The coefficients $r_l$ are found by quadrature: see `Elementwise`.
    """

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jnp.tanh(x)


class Sigmoid(AbstractExpanded):
    r"""The logistic sigmoid, $1 / (1 + e^{-x})$.

    $K' = \sum_l r_l(s)\, r_l(s')\, \rho^l$, with coefficients $r_l$ by quadrature: see
    `Elementwise`. `SigmoidLike` is close to it, and its kernel is a closed form.
    """

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jax.nn.sigmoid(x)


class Softplus(AbstractExpanded):
    r"""$\log(1 + e^x)$, a smooth rectifier.

    $K' = \sum_l r_l(s)\, r_l(s')\, \rho^l$, with coefficients $r_l$ by quadrature: see
    `Elementwise`.
    """

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jax.nn.softplus(x)


class Silu(AbstractExpanded):
    r"""$x / (1 + e^{-x})$, also known as swish.

    $K' = \sum_l r_l(s)\, r_l(s')\, \rho^l$, with coefficients $r_l$ by quadrature: see
    `Elementwise`.

    **Source:** Elfwing et al. 2018, arXiv:1702.03118.
    """

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jax.nn.silu(x)


class Selu(AbstractExpanded):
    r"""An `Elu` with $\alpha = 1.673\ldots$, times $1.050\ldots$.

    It keeps means of 0 and variances of 1. $K' = \sum_l r_l(s)\, r_l(s')\, \rho^l$,
    with coefficients $r_l$ by quadrature: see `Elementwise`.

    **Source:** Klambauer et al. 2017, arXiv:1706.02515.
    """

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jax.nn.selu(x)


class Elu(AbstractExpanded):
    r"""$x$ for $x > 0$, else $\alpha (e^x - 1)$.

    $K' = \sum_l r_l(s)\, r_l(s')\, \rho^l$, with coefficients $r_l$ by quadrature: see
    `Elementwise`.

    **Source:** Clevert et al. 2016, arXiv:1511.07289.
    """

    alpha: Scalar

    def __init__(self, alpha: Scalar = 1.0):
        r"""Set $-\alpha$, the limit for very negative inputs."""
        self.alpha = alpha

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jax.nn.elu(x, jnp.asarray(self.alpha, x.dtype))


class Gelu(AbstractActivation):
    r"""$f(x) = x\, \Phi(x)$ with the normal distribution function $\Phi$.

    $$K' = \frac{k}{4} + \frac{1}{2\pi} \Big( k \arcsin\rho +
    \frac{k^2 + v v' D}{e^2 e'^2 \sqrt{D}} \Big)$$

    with $e = \sqrt{1 + v}$, $\rho = k / (e e')$ and $D = e^2 e'^2 - k^2$;
    $T' = T\, \partial K' / \partial k$. With `approximate`, the function is
    $\frac{x}{2} (1 + \tanh(\sqrt{2 / \pi}\, (x + 0.044715\, x^3)))$, whose kernel is
    another one, an expansion as in `Elementwise`.

    **Source:** Hendrycks & Gimpel 2016, arXiv:1606.08415; kernel: Tsuchida et al. 2021,
    arXiv:2002.08517.
    """

    approximate: bool = eqx.field(static=True)

    def __init__(self, approximate: bool = False):
        """Choose the function itself, or its approximation by a hyperbolic tangent."""
        self.approximate = approximate

    @property
    def dual(self) -> AbstractDual:
        return FittedDual(_approximate_gelu) if self.approximate else GeluDual()

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jax.nn.gelu(x, approximate=self.approximate)


def _approximate_gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return jax.nn.gelu(x, approximate=True)
