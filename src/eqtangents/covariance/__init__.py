"""Displacement-major covariances of infinitely wide networks.

A covariance is not an array but a rule that gives blocks of it to whoever asks:
`_lattice` is the index arithmetic, `_frame` how blocks are asked for, and each other
file one kind of rule. Nothing here knows of layers.
"""

from eqtangents.covariance._covariance import AbstractCovariance as AbstractCovariance
from eqtangents.covariance._concatenated import SpatialConcat as SpatialConcat
from eqtangents.covariance._covariance import BLOCK_BYTES as BLOCK_BYTES
from eqtangents.covariance._covariance import Outline as Outline
from eqtangents.covariance._duals import ErfDual as ErfDual
from eqtangents.covariance._duals import ReluDual as ReluDual
from eqtangents.covariance._frame import Block as Block
from eqtangents.covariance._frame import Scope as Scope
from eqtangents.covariance._input import Input as Input
from eqtangents.covariance._pointwise import AbstractDual as AbstractDual
from eqtangents.covariance._pointwise import Affine as Affine
from eqtangents.covariance._pointwise import ChannelConcat as ChannelConcat
from eqtangents.covariance._pointwise import Nonlinear as Nonlinear
from eqtangents.covariance._pointwise import Product as Product
from eqtangents.covariance._pointwise import Scaled as Scaled
from eqtangents.covariance._pointwise import Sum as Sum
from eqtangents.covariance._pointwise import independent as independent
from eqtangents.covariance._pointwise import uncorrelated as uncorrelated
from eqtangents.covariance._pooled import Pooled as Pooled
from eqtangents.covariance._readout import dense as dense
from eqtangents.covariance._readout import Flattened as Flattened
from eqtangents.covariance._readout import Total as Total
from eqtangents.covariance._repeated import Repeated as Repeated
from eqtangents.covariance._repeated import ShapeChange as ShapeChange
from eqtangents.covariance._stencil import Stencil as Stencil
from eqtangents.covariance._windows import Padding as Padding
from eqtangents.covariance._windows import Window as Window
