"""Any nonlinearity that users bring."""

import math
import warnings
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from eqtangents.duals import (
    AbstractDual,
    Expansion,
    FittedDual,
    GivenDual,
    closed_form,
    default_tolerance,
)
from eqtangents.nn._activations import AbstractActivation
from eqtangents.nn._known import known_activation
from eqtangents.nn._layer import LayerError


_LARGEST_VARIANCE = 30.0
# Errors that a warning does for.
_NEARLY = 1e-3


class Elementwise(AbstractActivation):
    r"""Any function of one number.

    Of functions that `eqtangents.nn` has as layers, as `jax.nn.relu`, of polynomials up
    to degree 3, and of functions made of a few such, as any that is linear between
    breakpoints, the kernel is a closed form. That of any other is given by its Hermite
    expansion: with $u = s z$, $v = s' z'$ and the correlation $\rho$,

    $$K' = \sum_l r_l(s)\, r_l(s')\, \rho^l, \qquad
    r_l(s) = \mathbb{E}\, f(s z)\, h_l(z)$$

    where $r_l$ is found by quadrature in one dimension, once for each example and
    position. $T'$ needs the same of $f'$, which is `jax.jvp` of the function. A few
    dozen terms stand for the first thousand, so that kinks and jumps at zero are dealt
    with; with kinks elsewhere, of functions that are curved, it converges slowly where
    two inputs nearly coincide.

    **Arguments:**

    - `fn`: maps an array to one of its shape, entry by entry, by functions of JAX. A
        `Module` or other pytree of parameters is differentiated. `None` if the network
        is of infinite width alone; then a `dual` is needed.
    - `dual`: the closed form, if known: maps arrays `(cov, var1, var2)` of one shape to
        $\mathbb{E} f(u) f(v)$.
    - `dual_derivative`: a closed form of $\mathbb{E} f'(u) f'(v)$; without it, that is
        the derivative of `dual` in `cov`.
    - `tolerance`: largest relative error of the expansion at variances up to
        `largest_variance`. By default 1e-6 for inputs in double precision and 1e-5 for
        others. At larger variances it is less accurate, and kernels are NaN where they
        would be off by more than 1 % (or ten times the tolerance).

    **Raises:** `ValueError` if neither function nor dual is given, if `fn` is not
    elementwise, or if the expansion is far from that accurate. Up to an error of 1e-3
    (or ten times the tolerance) it warns instead, and says up to which variance the
    tolerance holds.

    **Cost:** per entry, some 15 to 40 multiplications and additions for each of $K'$
    and $T'$, about one to three times the closed form of `Relu`.

    **Source:** Mehler's formula; Daniely et al. 2016, arXiv:1602.05897, section 4.1.
    """

    fn: Callable | None
    given: GivenDual | None
    known: AbstractDual | None
    tolerance: float | None = eqx.field(static=True)
    largest_variance: float = eqx.field(static=True)

    def __init__(
        self,
        fn: Callable | None = None,
        *,
        dual: Callable | None = None,
        dual_derivative: Callable | None = None,
        tolerance: float | None = None,
        largest_variance: float = _LARGEST_VARIANCE,
    ):
        """Find a closed form, or the terms of the expansion."""
        if fn is None and dual is None:
            raise ValueError(
                "Elementwise: has neither a function nor a dual. Give `fn`, for "
                "networks of any width, or `dual`, for those of infinite width."
            )
        self.fn = fn
        self.given = None if dual is None else GivenDual(dual, dual_derivative)
        self.known, self.tolerance = None, tolerance
        self.largest_variance = largest_variance
        if fn is None or dual is not None:
            return
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
            f"Elementwise: the kernel of `{_name(self.fn)}` by Hermite expansion is "
            f"off by up to {error:.1e}, relatively, at variances up to "
            f"{self.largest_variance:g}, but `tolerance` is {tolerance:g}"
        )
        if error > max(_NEARLY, 10 * tolerance):
            raise ValueError(
                f"{message}. Raise the tolerance, lower `largest_variance` if the "
                "inputs have smaller variances, or give a closed form, `dual`: "
                "functions with kinks or jumps away from zero have one if they are "
                "polynomials between these."
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
        if self.given is not None:
            return self.given
        return self._fitted if self.known is None else self.known

    @property
    def expansion(self) -> Expansion | None:
        """Of inputs in JAX's default precision, where there is no closed form."""
        if self.given is not None or self.known is not None:
            return None
        return self._fitted.fit(jnp.zeros(()).dtype)[0]

    @property
    def _fitted(self) -> FittedDual:
        assert self.fn is not None
        return FittedDual(self.fn, self.tolerance, self.largest_variance)

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
        are, and zero for functions whose kernel is known in closed form.

        **Raises:** `ValueError` if the layer was given a closed form.
        """
        if self.given is not None:
            raise ValueError(
                "Elementwise: was given a `dual`, and so there is no expansion whose "
                "errors could be estimated."
            )
        if self.known is not None:
            return jnp.zeros_like(variance), jnp.zeros_like(variance)
        return self._fitted.errors(variance)


def _name(fn: Callable | None) -> str:
    return getattr(fn, "__name__", type(fn).__name__)


def _rounded_up(error: float) -> str:
    """To one digit."""
    return f"{float(f'{error:.0e}') + 10.0 ** math.floor(math.log10(error)):.0e}"


def _check_elementwise(fn: Callable) -> None:
    """Raise unless a function maps arrays to real ones of the same shape."""
    if not callable(fn):
        raise TypeError(
            f"Elementwise: `fn` must be a function of one array, but is {fn!r:.80}."
        )
    given = jax.ShapeDtypeStruct((2, 3), jnp.zeros(()).dtype)
    came = eqx.filter_eval_shape(fn, given)
    if not (
        isinstance(came, jax.ShapeDtypeStruct)
        and came.shape == given.shape
        and jnp.issubdtype(came.dtype, jnp.floating)
    ):
        raise ValueError(
            f"Elementwise: `{_name(fn)}` must map an array of real numbers to one of "
            f"the same shape, but makes {_described(came)} of {_described(given)}."
        )


def _described(value: object) -> str:
    if isinstance(value, jax.ShapeDtypeStruct):
        return f"{value.dtype}{list(value.shape)}"
    return f"a {type(value).__name__}"
