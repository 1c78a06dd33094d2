"""Dual activations: Gaussian expectations of nonlinearities.

`dual(cov, var1, var2)` gives `E f(u) f(v)` and `E f'(u) f'(v)` for centred Gaussians
`u, v`: all that infinitely wide networks know of a nonlinearity. Nothing here knows of
positions or layers.
"""

from eqtangents.duals._arcsine import ErfDual as ErfDual, GeluDual as GeluDual
from eqtangents.duals._dual import AbstractDual as AbstractDual, Stacked as Stacked
from eqtangents.duals._expansion import Expansion as Expansion
from eqtangents.duals._exponential import (
    ExpDual as ExpDual,
    ExpNormalizedDual as ExpNormalizedDual,
    GaborDual as GaborDual,
    GaussianDual as GaussianDual,
    RbfDual as RbfDual,
    SineDual as SineDual,
)
from eqtangents.duals._fitted import (
    FittedDual as FittedDual,
    closed_form as closed_form,
    default_tolerance as default_tolerance,
)
from eqtangents.duals._given import GivenDual as GivenDual
from eqtangents.duals._pair import Moments as Moments, Pair as Pair
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
    RectifiedMonomialDual as RectifiedMonomialDual,
    ReluDual as ReluDual,
    SignDual as SignDual,
)
from eqtangents.duals._sampled import Sampled as Sampled
