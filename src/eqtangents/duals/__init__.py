"""Dual activations: Gaussian expectations of nonlinearities.

`dual(cov, var1, var2)` gives `E f(u) f(v)` and `E f'(u) f'(v)` for centred Gaussians
`u, v` with this covariance and these variances: an infinitely wide network depends on a
nonlinearity through these two alone. Nothing here knows of positions or layers.

In formulas `k` is the covariance, `v, v'` are the variances, `s, s'` the standard
deviations, `rho` is the correlation, and `E f f`, `E f' f'` are the two expectations.

A dual of your own is a subclass of `AbstractDual` with three methods; `Pair`,
`Moments`, `Stacked` and the functions here are what it may need.
"""

import typing as _typing

from eqtangents._other_names import names_told as _names_told
from eqtangents.duals._arcsine import ErfDual as ErfDual, GeluDual as GeluDual
from eqtangents.duals._dual import (
    AbstractDual as AbstractDual,
    Stacked as Stacked,
    at_equal_inputs as at_equal_inputs,
)
from eqtangents.duals._elementary import (
    constants as constants,
    reciprocal as reciprocal,
    safe_sqrt as safe_sqrt,
)
from eqtangents.duals._expansion import Expansion as Expansion
from eqtangents.duals._expansion_fit import Accuracy as Accuracy
from eqtangents.duals._exponential import (
    ExpDual as ExpDual,
    ExpNormalizedDual as ExpNormalizedDual,
    GaborDual as GaborDual,
    GaussianDual as GaussianDual,
    RbfDual as RbfDual,
    SineDual as SineDual,
)
from eqtangents.duals._fitted import FittedDual as FittedDual
from eqtangents.duals._given import GivenDual as GivenDual
from eqtangents.duals._pair import (
    Deviation as Deviation,
    Moments as Moments,
    Pair as Pair,
    deviation as deviation,
)
from eqtangents.duals._piecewise import (
    Break as Break,
    PiecewisePolynomial as PiecewisePolynomial,
    PiecewisePolynomialDual as PiecewisePolynomialDual,
)
from eqtangents.duals._polynomial import (
    HermiteDual as HermiteDual,
    PolynomialDual as PolynomialDual,
)
from eqtangents.duals._rectified import (
    LinearDual as LinearDual,
    RectifiedMonomialDual as RectifiedMonomialDual,
    ReluDual as ReluDual,
    SignDual as SignDual,
)


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__)
