"""Displacement-major covariances of infinitely wide networks.

A covariance is not an array but a rule that gives blocks of it to whoever asks:
`_lattice` is the index arithmetic, `_frame` how blocks are asked for, and each other
file one kind of rule. Nothing here knows of layers.
"""

from eqtangents.covariance._concatenated import SpatialConcat as SpatialConcat
from eqtangents.covariance._covariance import (
    BLOCK_BYTES as BLOCK_BYTES,
    AbstractCovariance as AbstractCovariance,
    Outline as Outline,
)
from eqtangents.covariance._duals import ErfDual as ErfDual, ReluDual as ReluDual
from eqtangents.covariance._frame import Block as Block, Scope as Scope
from eqtangents.covariance._input import Input as Input
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
from eqtangents.covariance._pooled import Pooled as Pooled
from eqtangents.covariance._readout import (
    Flattened as Flattened,
    Total as Total,
    dense as dense,
)
from eqtangents.covariance._repeated import (
    Repeated as Repeated,
    ShapeChange as ShapeChange,
)
from eqtangents.covariance._stencil import Stencil as Stencil
from eqtangents.covariance._windows import Window as Window
