"""Nonlinearities that users bring: a function, or its dual."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents._arguments import described
from eqtangents._at_once import computed_at_once
from eqtangents.duals import (
    AbstractDual,
    Expansion,
    FittedDual,
    GivenDual,
)
from eqtangents.duals._fitted import LARGEST_VARIANCE, closed_form, default_tolerance
from eqtangents.nn._activations import AbstractActivation
from eqtangents.nn._known import known_activation
from eqtangents.nn._layer import LayerError


_NEARLY = 1e-3  # an error up to which a missed tolerance is only worth a warning


class Elementwise(AbstractActivation):
    r"""Any function of one number.

    The kernel is a closed form for functions that `eqtangents.nn` has as layers, such
    as `jax.nn.relu`, for polynomials up to degree 3, and for functions made of a few
    such pieces, as all that are linear between breakpoints. Any other function has a
    kernel by its Hermite expansion: with $u = s z$, $v = s' z'$ and the correlation
    $\rho$,

    $$K' = \sum_l r_l(s)\, r_l(s')\, \rho^l, \qquad
    r_l(s) = \mathbb{E}\, f(s z)\, h_l(z)$$

    where $r_l$ is found by quadrature in one dimension, once for each example and
    position. $T'$ needs the same of $f'$, which is `jax.jvp` of the function. A few
    dozen terms stand for the first thousand, so that kinks and jumps at zero are dealt
    with; with kinks elsewhere, of functions that are curved, it converges slowly where
    two inputs nearly coincide. A nonlinearity whose closed form you know is a
    `FromDual`.

    **Arguments:**

    - `fn`: maps an array to one of its shape, entry by entry, by functions of JAX. A
        `Module` or other pytree of parameters is differentiated, and so are arrays
        that a function was made around, as `slope` in `lambda x: jnp.tanh(slope * x)`.
    - `tolerance`: largest relative error of the expansion at variances up to
        `largest_variance`. By default 1e-6 for inputs in double precision and 1e-5 for
        others. At larger variances it is less accurate, and kernels are NaN where they
        would be off by more than 1 % (or ten times the tolerance).

    **Raises:** `TypeError` if `fn` is no function; `ValueError` if it is not
    elementwise, or if the expansion is far from that accurate. Up to an error of 1e-3
    (or ten times the tolerance) it warns instead, and says up to which variance the
    tolerance holds.

    **Cost:** per entry, some 15 to 40 multiplications and additions for each of $K'$
    and $T'$, about one to three times the closed form of `Relu`.

    **Source:** Mehler's formula; Daniely et al. 2016, arXiv:1602.05897, section 4.1.
    """

    fn: Callable
    known: AbstractDual | None
    tolerance: float | None = eqx.field(static=True)
    largest_variance: float = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable,
        *,
        tolerance: float | None = None,
        largest_variance: float = LARGEST_VARIANCE,
    ):
        """Find a closed form, or the terms of the expansion."""
        self.fn, self.tolerance = fn, tolerance
        self.largest_variance = largest_variance
        layer = known_activation(fn)
        self.known = None if layer is None else layer.dual
        if layer is None or isinstance(self.known, FittedDual):
            _check_elementwise(fn)
            self.known = closed_form(fn) if layer is None else None
            if self.known is None:
                self._check_accuracy()

    def _check_accuracy(self) -> None:
        """Warn if the tolerance is missed, and raise if it is missed by far."""
        dtype = jnp.zeros(()).dtype
        tolerance = self.tolerance or default_tolerance(dtype)
        _, (error, variance) = self._fitted.fit(dtype)
        if error <= tolerance:
            return
        message = (
            f"Elementwise: the kernel of `{_function_name(self.fn)}` by Hermite "
            f"expansion is off by up to {error:.1e}, relatively, at variances up to "
            f"{self.largest_variance:g}, but `tolerance` is {tolerance:g}"
        )
        if error > max(_NEARLY, 10 * tolerance):
            raise ValueError(
                f"{message}. Raise the tolerance, lower `largest_variance` if the "
                "inputs have smaller variances, or give a closed form, "
                "`nn.FromDual(dual)`: functions with kinks or jumps away from zero "
                "have one if they are polynomials between these."
            )
        warnings.warn(
            f"{message}, which holds at variances up to {variance:.2g}. "
            f"`tolerance={_rounded_up(error)}` says that this is accurate enough, and "
            "`largest_variance` that inputs have smaller variances.",
            stacklevel=3,
        )

    @property
    def dual(self) -> AbstractDual:
        """The closed form, or the expansion."""
        return self._fitted if self.known is None else self.known

    @property
    def expansion(self) -> Expansion | None:
        """The expansion for JAX's default precision; `None` with a closed form."""
        if self.known is not None:
            return None
        return self._fitted.fit(jnp.zeros(()).dtype)[0]

    @property
    def _fitted(self) -> FittedDual:
        return FittedDual(self.fn, self.tolerance, self.largest_variance)

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return self.fn(x)

    def errors(
        self, variance: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        r"""Estimated relative errors of $\mathbb{E} f f$ and $\mathbb{E} f' f'$.

        At equal inputs of some variances, where the expansion converges most slowly, by
        comparison with a finer quadrature that expands nothing. NaN where the kernels
        are, and zero for functions whose kernel is known in closed form.
        """
        if self.known is not None:
            return jnp.zeros_like(variance), jnp.zeros_like(variance)
        return self._fitted.errors(variance)


class FromDual(AbstractActivation):
    r"""A nonlinearity by its dual: $K' = \mathbb{E} f(u) f(v)$ is given.

    **Arguments:**

    - `dual`: maps arrays `(cov, var1, var2)` of one shape to $\mathbb{E} f(u) f(v)$,
        for centred Gaussians $u$ and $v$ with this covariance and these variances; or
        an `AbstractDual` of `eqtangents.duals`. A `Module` or other pytree of
        parameters is differentiated.
    - `dual_derivative`: the same for $\mathbb{E} f'(u) f'(v)$, by which the tangent
        kernel is multiplied. Without it, that is the derivative of `dual` in `cov`.
    - `fn`: the function, for networks of finite width. It maps an array to one of its
        shape, entry by entry.

    **Raises:** `TypeError` if `dual` can not be called, and `ValueError` if it is an
    `AbstractDual` and a derivative is given, which such a dual has itself.

    `eqtangents.testing.check_dual` tells whether the two expectations belong to a
    function.
    """

    fn: Callable | None
    given: AbstractDual

    def __init__(
        self,
        dual: Callable | AbstractDual,
        dual_derivative: Callable | None = None,
        *,
        fn: Callable | None = None,
    ):
        """Keep the dual and the function."""
        if not isinstance(dual, AbstractDual):
            _check_formula("dual", dual)
            if dual_derivative is not None:
                _check_formula("dual_derivative", dual_derivative)
            dual = GivenDual(dual, dual_derivative)
        elif dual_derivative is not None:
            raise ValueError(
                f"FromDual: `{type(dual).__name__}` gives both expectations itself. "
                "Leave out `dual_derivative`."
            )
        if fn is not None:
            _check_elementwise(fn, "FromDual")
        self.fn, self.given = fn, dual

    @property
    def dual(self) -> AbstractDual:
        return self.given

    def function(self, x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        if self.fn is None:
            raise LayerError(
                self,
                "was given no function, only a dual, and so exists in networks of "
                "infinite width alone, and not directly on their input. Give it `fn` "
                "as well.",
            )
        return self.fn(x)


def _check_formula(name: str, formula: Any) -> None:
    """Raise unless something can be called with a covariance and two variances."""
    if isinstance(formula, type) or not callable(formula):
        raise TypeError(
            f"FromDual: `{name}` is {described(formula)}, but must be a function of "
            "`(cov, var1, var2)` or, for the dual, an `AbstractDual`: "
            "`nn.FromDual(lambda cov, var1, var2: cov**2, fn=f)`, say."
        )


def _function_name(fn: Callable) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def _rounded_up(error: float) -> str:
    """To one digit."""
    return f"{float(f'{error:.0e}') + 10.0 ** math.floor(math.log10(error)):.0e}"


def _check_elementwise(fn: Callable, owner: str = "Elementwise") -> None:
    """Raise unless a function maps arrays to real ones of the same shape."""
    if not callable(fn):
        raise TypeError(
            f"{owner}: `fn` must be a function of one array, but is {fn!r:.80}."
        )
    given = jax.ShapeDtypeStruct((2, 3), jnp.zeros(()).dtype)
    came = eqx.filter_eval_shape(fn, given)
    if not (
        isinstance(came, jax.ShapeDtypeStruct)
        and came.shape == given.shape
        and jnp.issubdtype(came.dtype, jnp.floating)
    ):
        raise ValueError(
            f"{owner}: `{_function_name(fn)}` must map an array of real numbers to "
            f"one of the same shape, but makes {_type_of(came)} of {_type_of(given)}."
        )

    if _mixes_entries(fn):
        raise ValueError(
            f"{owner}: `{_function_name(fn)}` must map each entry by itself, but one "
            "entry of an array changes what becomes of others. Layers that mix "
            "channels or positions are in `eqtangents.nn`, as norms and pooling."
        )


_NOT_KNOWN_YET = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
)


def _mixes_entries(fn: Callable) -> bool:
    """Whether one entry of an array changes what becomes of others, if that is told."""
    x = np.linspace(-1, 1, 6).reshape(2, 3)
    moved = np.where(x == -1, 3.0, x)  # the least becomes the largest
    try:
        with computed_at_once():
            before, after = (np.asarray(fn(jnp.asarray(v))) for v in (x, moved))
    except _NOT_KNOWN_YET:  # it has parameters that are traced
        return False
    return not np.array_equal(before.ravel()[1:], after.ravel()[1:], equal_nan=True)


def _type_of(value: object) -> str:
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"{value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__}"
