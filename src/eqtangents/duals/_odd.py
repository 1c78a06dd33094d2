"""Which functions are odd, so that their mean over a centred Gaussian is zero."""

from typing import Any

import numpy as np

from eqtangents._types import known_value
from eqtangents.duals._arcsine import ErfDual
from eqtangents.duals._dual import AbstractDual
from eqtangents.duals._exponential import SineDual
from eqtangents.duals._fitted import FittedDual, values_on_grid
from eqtangents.duals._pieces import GRID, values_at
from eqtangents.duals._piecewise import PiecewisePolynomialDual
from eqtangents.duals._polynomial import HermiteDual, PolynomialDual
from eqtangents.duals._rectified import LinearDual, SignDual


def is_odd(dual: AbstractDual) -> bool:
    """Whether $f(-x) = -f(x)$ is known of the function that a dual is of."""
    if isinstance(dual, LinearDual | SignDual):
        return True
    if isinstance(dual, HermiteDual):
        return dual.degree % 2 == 1
    if isinstance(dual, ErfDual | SineDual):
        return known_value(dual.c) == 0
    if isinstance(dual, PolynomialDual):
        return all(known_value(c) == 0 for c in tuple(dual.coefficients)[::2])
    if isinstance(dual, PiecewisePolynomialDual):
        values: Any = values_at(dual.function, GRID)
    elif isinstance(dual, FittedDual):
        values = values_on_grid(dual.fn)
    else:
        return False
    if values is None:
        return False
    return bool(np.allclose(values, -values[::-1], rtol=1e-12, atol=0))
