"""Displacement-major covariances of infinitely wide networks.

A covariance is not an array but a rule that gives blocks of it to whoever asks:
`_lattice` is the index arithmetic, `_frame` how blocks are asked for, and each other
file one kind of rule. Nothing here knows of layers.
"""

from eqtangents.covariance._arcsine import ErfDual as ErfDual, GeluDual as GeluDual
from eqtangents.covariance._coincidence import (
    Everywhere as Everywhere,
    Thinned as Thinned,
    Unshared as Unshared,
)
from eqtangents.covariance._concatenated import SpatialConcat as SpatialConcat
from eqtangents.covariance._covariance import (
    BLOCK_BYTES as BLOCK_BYTES,
    AbstractCovariance as AbstractCovariance,
    Outline as Outline,
)
from eqtangents.covariance._expansion import Expansion as Expansion
from eqtangents.covariance._exponential import (
    ExpDual as ExpDual,
    ExpNormalizedDual as ExpNormalizedDual,
    GaborDual as GaborDual,
    GaussianDual as GaussianDual,
    RbfDual as RbfDual,
    SineDual as SineDual,
)
from eqtangents.covariance._fitted import (
    FittedDual as FittedDual,
    closed_form as closed_form,
    default_tolerance as default_tolerance,
)
from eqtangents.covariance._frame import Block as Block, Scope as Scope
from eqtangents.covariance._gathered import Gathered as Gathered
from eqtangents.covariance._given import GivenDual as GivenDual
from eqtangents.covariance._input import Input as Input
from eqtangents.covariance._lattice import (
    materialised as materialised,
    picked as picked,
)
from eqtangents.covariance._mapped import Mapped as Mapped, Positional as Positional
from eqtangents.covariance._normalised import (
    Centred as Centred,
    Modulated as Modulated,
    Normalised as Normalised,
)
from eqtangents.covariance._pair import Moments as Moments, Pair as Pair
from eqtangents.covariance._piecewise import (
    Break as Break,
    PiecewisePolynomial as PiecewisePolynomial,
    PiecewisePolynomialDual as PiecewisePolynomialDual,
)
from eqtangents.covariance._pointwise import (
    AbstractDual as AbstractDual,
    Affine as Affine,
    ChannelConcat as ChannelConcat,
    Nonlinear as Nonlinear,
    Product as Product,
    Scaled as Scaled,
    Sum as Sum,
    independent as independent,
    uncorrelated as uncorrelated,
)
from eqtangents.covariance._polynomial import (
    HermiteDual as HermiteDual,
    PolynomialDual as PolynomialDual,
)
from eqtangents.covariance._pooled import Pooled as Pooled
from eqtangents.covariance._readout import (
    Flattened as Flattened,
    Total as Total,
    bounded as bounded,
    dense as dense,
)
from eqtangents.covariance._rectified import (
    RectifiedMonomialDual as RectifiedMonomialDual,
    ReluDual as ReluDual,
    SignDual as SignDual,
)
from eqtangents.covariance._repeated import (
    Repeated as Repeated,
    ShapeChange as ShapeChange,
)
from eqtangents.covariance._sampled import Sampled as Sampled
from eqtangents.covariance._stencil import Stencil as Stencil
from eqtangents.covariance._windows import (
    Window as Window,
    seen_through as seen_through,
)
