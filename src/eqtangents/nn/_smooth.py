"""Smooth nonlinearities with kernels in closed form."""

import math

import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, Float

from eqtangents._types import NonNegative, Scalar
from eqtangents.duals import (
    ErfDual,
    ExpDual,
    ExpNormalizedDual,
    GaborDual,
    GaussianDual,
    RbfDual,
    SineDual,
    constants,
)
from eqtangents.nn._activations import AbstractActivation
from eqtangents.nn._layer import LayerError


class Erf(AbstractActivation):
    r"""The error function, $f(x) = a\, \mathrm{erf}(b x) + c$.

    $$K' = \frac{2 a^2}{\pi} \arcsin \frac{2 b^2 k}{e e'} + c^2, \qquad
    T' = \frac{4 a^2 b^2}{\pi} \frac{T}{\sqrt{e^2 e'^2 - 4 b^4 k^2}}$$

    with $e = \sqrt{1 + 2 b^2 v}$.

    **Source:** Williams 1997, "Computing with infinite networks", eq. 11.
    """

    a: Scalar
    b: Scalar
    c: Scalar

    def __init__(self, a: Scalar = 1.0, b: Scalar = 1.0, c: Scalar = 0.0):
        """Set the height `a`, the steepness `b` and the offset `c`."""
        self.a, self.b, self.c = a, b, c

    @property
    def dual(self) -> ErfDual:
        return ErfDual(self.a, self.b, self.c)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        a, b, c = constants(x, self.a, self.b, self.c)
        return a * erf(b * x) + c


_SIGMOID_WIDTH = 2.4020563531719796


class SigmoidLike(AbstractActivation):
    r"""$f(x) = \frac{1}{2} (1 + \mathrm{erf}(b x))$ with $b = 1 / 2.402$.

    $K' = \frac{1}{2\pi} \arcsin \frac{2 b^2 k}{e e'} + \frac{1}{4}$ with
    $e = \sqrt{1 + 2 b^2 v}$, as for `Erf`. Among error functions this one is the
    closest to the logistic sigmoid on $[-5, 5]$, in least squares. `Sigmoid` is the
    logistic one, whose kernel is an expansion.
    """

    @property
    def dual(self) -> ErfDual:
        return ErfDual(0.5, 1 / _SIGMOID_WIDTH, 0.5)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return 0.5 * erf(x / _SIGMOID_WIDTH) + 0.5


class Sin(AbstractActivation):
    r"""$f(x) = a \sin(b x + c)$.

    $K' = \frac{a^2}{2} (S_- - S_+)$ and $T' = \frac{a^2 b^2}{2} (S_- + S_+)\, T$ with
    $S_- = e^{-b^2 ((v + v') / 2 - k)}$ and
    $S_+ = \cos(2c)\, e^{-b^2 ((v + v') / 2 + k)}$.

    **Source:** Louart et al. 2018, arXiv:1702.05419, table 1.
    """

    a: Scalar
    b: Scalar
    c: Scalar

    def __init__(self, a: Scalar = 1.0, b: Scalar = 1.0, c: Scalar = 0.0):
        """Set the amplitude `a`, the frequency `b` and the phase `c`."""
        self.a, self.b, self.c = a, b, c

    @property
    def dual(self) -> SineDual:
        return SineDual(self.a, self.b, self.c)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        a, b, c = constants(x, self.a, self.b, self.c)
        return a * jnp.sin(b * x + c)


class Cos(AbstractActivation):
    r"""$f(x) = a \cos(b x + c)$, a sine ahead by a quarter of its period.

    $K' = \frac{a^2}{2} (S_- + S_+)$ and $T' = \frac{a^2 b^2}{2} (S_- - S_+)\, T$ with
    $S_- = e^{-b^2 ((v + v') / 2 - k)}$ and
    $S_+ = \cos(2c)\, e^{-b^2 ((v + v') / 2 + k)}$.

    **Source:** Louart et al. 2018, arXiv:1702.05419, table 1.
    """

    a: Scalar
    b: Scalar
    c: Scalar

    def __init__(self, a: Scalar = 1.0, b: Scalar = 1.0, c: Scalar = 0.0):
        """Set the amplitude `a`, the frequency `b` and the phase `c`."""
        self.a, self.b, self.c = a, b, c

    @property
    def dual(self) -> SineDual:
        return SineDual(self.a, self.b, self.c + math.pi / 2)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        a, b, c = constants(x, self.a, self.b, self.c)
        return a * jnp.cos(b * x + c)


class Rbf(AbstractActivation):
    r"""$f(x) = \sqrt{2} \sin(\sqrt{2\gamma}\, x + \pi / 4)$.

    Its kernel is the squared exponential of the distance between the inputs,
    $K' = e^{-\gamma (v + v' - 2k)}$, and $T' = 2 \gamma K' T$.

    **Source:** Rahimi & Recht 2007, "Random features for large-scale kernel machines".
    """

    gamma: NonNegative

    def __init__(self, gamma: NonNegative = 1.0):
        r"""Set $\gamma$, the inverse of twice the squared length scale."""
        self.gamma = gamma

    @property
    def dual(self) -> RbfDual:
        return RbfDual(self.gamma)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        (gamma,) = constants(x, self.gamma)
        return math.sqrt(2) * jnp.sin(jnp.sqrt(2 * gamma) * x + math.pi / 4)


class Gaussian(AbstractActivation):
    r"""$f(x) = a\, e^{b x^2}$.

    $K' = a^2 / \sqrt{D}$ and $T' = 4 a^2 b^2 k\, D^{-3/2}\, T$ with
    $D = (1 - 2 b v)(1 - 2 b v') - 4 b^2 k^2$.

    For positive `b` the kernel is finite only while $4 b v < 1$ for all variances.

    **Source:** Williams 1997, "Computing with infinite networks", eq. 13.
    """

    a: Scalar
    b: Scalar

    def __init__(self, a: Scalar = 1.0, b: Scalar = -1.0):
        """Set the height `a` and the inverse squared width `b`, with its sign."""
        self.a, self.b = a, b

    @property
    def dual(self) -> GaussianDual:
        return GaussianDual(self.a, self.b)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        a, b = constants(x, self.a, self.b)
        return a * jnp.exp(b * x * x)


class Exp(AbstractActivation):
    r"""$f(x) = a\, e^{b x}$.

    $K' = a^2 e^{b^2 (k + (v + v') / 2)}$ and $T' = b^2 K' T$.

    **Source:** the mean of a log-normal variable.
    """

    a: Scalar
    b: Scalar

    def __init__(self, a: Scalar = 1.0, b: Scalar = 1.0):
        """Set the height `a` and the rate `b`."""
        self.a, self.b = a, b

    @property
    def dual(self) -> ExpDual:
        return ExpDual(self.a, self.b)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        a, b = constants(x, self.a, self.b)
        return a * jnp.exp(b * x)


class ExpNormalized(AbstractActivation):
    r"""The kernel $K' = s s' e^{\gamma (\rho + h)}$ with $\rho = k / (s s')$.

    $T' = \gamma e^{\gamma (\rho + h)}\, T$. It is defined by its kernel. The finite
    network has no such function, which would depend on the variance of its own input.

    **Source:** Shankar et al. 2020, arXiv:2003.02237, section 4.
    """

    gamma: NonNegative
    shift: Scalar

    def __init__(self, gamma: NonNegative = 1.0, shift: Scalar = -1.0):
        r"""Set $\gamma$, and the shift $h$; with $h = -1$ variances are kept."""
        self.gamma, self.shift = gamma, shift

    @property
    def dual(self) -> ExpNormalizedDual:
        return ExpNormalizedDual(self.gamma, self.shift)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        raise LayerError(
            self,
            "is defined by its kernel and is no function, so that it exists in "
            "networks of infinite width alone, and not directly on their input. For a "
            "function with a similar kernel use `Rbf` or `Exp`.",
        )


class Gabor(AbstractActivation):
    r"""$f(x) = e^{-x^2} \sin x$.

    $$K' = \frac{e^{2k / d} - 1}{2 \sqrt{d}}
    \exp\big({-\tfrac{1}{d} (\tfrac{v + v'}{2} + 2 (v v' - k^2) + k)}\big)$$

    with $d = (1 + 2 v)(1 + 2 v') - 4 k^2$, and $T' = T\, \partial K' / \partial k$.

    **Source:** the kernel of `Sin` under a Gaussian that $e^{-u^2 - v^2}$ has narrowed.
    """

    @property
    def dual(self) -> GaborDual:
        return GaborDual()

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return jnp.exp(-x * x) * jnp.sin(x)
