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
)
from eqtangents.nn._activations import AbstractActivation
from eqtangents.nn._layer import LayerError


def _constants(x: Float[Array, "..."], *values: Scalar) -> list[Float[Array, ""]]:
    return [jnp.asarray(value, x.dtype) for value in values]


class Erf(AbstractActivation):
    r"""The error function, $a\, \mathrm{erf}(b x) + c$.

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
        """Arcsine kernel."""
        return ErfDual(self.a, self.b, self.c)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """The error function."""
        a, b, c = _constants(x, self.a, self.b, self.c)
        return a * erf(b * x) + c


class SigmoidLike(AbstractActivation):
    r"""$\frac{1}{2} (1 + \mathrm{erf}(x / 2.402\ldots))$.

    Of the error functions the closest to the logistic sigmoid on $[-5, 5]$, in least
    squares. `Sigmoid` is the logistic one, whose kernel is an expansion.
    """

    @property
    def dual(self) -> ErfDual:
        """Arcsine kernel."""
        return ErfDual(0.5, 1 / _SIGMOID_WIDTH, 0.5)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """An error function between 0 and 1."""
        return 0.5 * erf(x / _SIGMOID_WIDTH) + 0.5


_SIGMOID_WIDTH = 2.4020563531719796


class Sin(AbstractActivation):
    r"""$a \sin(b x + c)$.

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
        """Exponentials."""
        return SineDual(self.a, self.b, self.c)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """A sine wave."""
        a, b, c = _constants(x, self.a, self.b, self.c)
        return a * jnp.sin(b * x + c)


class Cos(AbstractActivation):
    r"""$a \cos(b x + c)$, a sine ahead by a quarter of its period.

    **Source:** as of `Sin`.
    """

    a: Scalar
    b: Scalar
    c: Scalar

    def __init__(self, a: Scalar = 1.0, b: Scalar = 1.0, c: Scalar = 0.0):
        """Set the amplitude `a`, the frequency `b` and the phase `c`."""
        self.a, self.b, self.c = a, b, c

    @property
    def dual(self) -> SineDual:
        """Exponentials."""
        return SineDual(self.a, self.b, self.c + math.pi / 2)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """A cosine wave."""
        a, b, c = _constants(x, self.a, self.b, self.c)
        return a * jnp.cos(b * x + c)


class Rbf(AbstractActivation):
    r"""$\sqrt{2} \sin(\sqrt{2\gamma}\, x + \pi / 4)$.

    Its kernel is the squared exponential, $K' = e^{-\gamma (v + v' - 2k)}$, of the
    distance between the inputs.

    **Source:** Rahimi & Recht 2007, "Random features for large-scale kernel machines".
    """

    gamma: NonNegative

    def __init__(self, gamma: NonNegative = 1.0):
        r"""Set $\gamma$, the inverse of twice the squared length scale."""
        self.gamma = gamma

    @property
    def dual(self) -> RbfDual:
        """A squared exponential."""
        return RbfDual(self.gamma)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """A sine wave of random phase, in effect."""
        (gamma,) = _constants(x, self.gamma)
        return math.sqrt(2) * jnp.sin(jnp.sqrt(2 * gamma) * x + math.pi / 4)


class Gaussian(AbstractActivation):
    r"""$a\, e^{b x^2}$.

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
        """The inverse root of a determinant."""
        return GaussianDual(self.a, self.b)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """A bell curve."""
        a, b = _constants(x, self.a, self.b)
        return a * jnp.exp(b * x * x)


class Exp(AbstractActivation):
    r"""$a\, e^{b x}$, whose kernel is $K' = a^2 e^{b^2 (k + (v + v') / 2)}$.

    **Source:** the mean of a log-normal variable.
    """

    a: Scalar
    b: Scalar

    def __init__(self, a: Scalar = 1.0, b: Scalar = 1.0):
        """Set the height `a` and the rate `b`."""
        self.a, self.b = a, b

    @property
    def dual(self) -> ExpDual:
        """An exponential."""
        return ExpDual(self.a, self.b)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """An exponential."""
        a, b = _constants(x, self.a, self.b)
        return a * jnp.exp(b * x)


class ExpNormalized(AbstractActivation):
    r"""The kernel $K' = s s' e^{\gamma (\rho + h)}$ with $\rho = k / (s s')$.

    It is defined by its kernel. The finite network has no such function, which would
    depend on the variance of its own input.

    **Source:** Shankar et al. 2020, arXiv:2003.02237, section 4.
    """

    gamma: NonNegative
    shift: Scalar

    def __init__(self, gamma: NonNegative = 1.0, shift: Scalar = -1.0):
        r"""Set $\gamma$, and the shift $h$; with $h = -1$ variances are kept."""
        self.gamma, self.shift = gamma, shift

    @property
    def dual(self) -> ExpNormalizedDual:
        """An exponential of the correlation."""
        return ExpNormalizedDual(self.gamma, self.shift)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """Raise: there is none."""
        raise LayerError(
            self,
            "is defined by its kernel and is no function, so that it exists in "
            "networks of infinite width alone, and not directly on their input. For a "
            "function with a similar kernel use `Rbf` or `Exp`.",
        )


class Gabor(AbstractActivation):
    r"""$e^{-x^2} \sin x$.

    **Source:** the kernel of `Sin` under a Gaussian that $e^{-u^2 - v^2}$ has narrowed.
    """

    @property
    def dual(self) -> GaborDual:
        """That of sines, for other variances."""
        return GaborDual()

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        """A wave packet."""
        return jnp.exp(-x * x) * jnp.sin(x)
