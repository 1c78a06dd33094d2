"""Displacement-major covariances of infinitely wide networks.

A covariance is not an array but a rule that gives blocks of it to whoever asks:
`_lattice` is the index arithmetic, `_frame` how blocks are asked for, and each other
file one kind of rule. Nothing here knows of layers.
"""

from eqtangents.covariance._branches import (
    ChannelConcat as ChannelConcat,
    Product as Product,
    SpatialConcat as SpatialConcat,
    Sum as Sum,
    independent as independent,
    uncorrelated as uncorrelated,
)
from eqtangents.covariance._coincidence import (
    DroppedOut as DroppedOut,
    LocallyConnected as LocallyConnected,
    SpatialBroadcast as SpatialBroadcast,
)
from eqtangents.covariance._covariance import (
    BLOCK_BYTES as BLOCK_BYTES,
    AbstractCovariance as AbstractCovariance,
    Outline as Outline,
)
from eqtangents.covariance._frame import Block as Block, Scope as Scope
from eqtangents.covariance._gathered import Gathered as Gathered
from eqtangents.covariance._input import Input as Input
from eqtangents.covariance._lattice import (
    materialised as materialised,
    picked as picked,
)
from eqtangents.covariance._mapped import Mapped as Mapped, Positional as Positional
from eqtangents.covariance._nonlinear import Nonlinear as Nonlinear
from eqtangents.covariance._normalised import (
    Centred as Centred,
    Normalised as Normalised,
    TrainedGains as TrainedGains,
)
from eqtangents.covariance._pointwise import (
    Affine as Affine,
    Scaled as Scaled,
    Vanished as Vanished,
)
from eqtangents.covariance._pooled import Pooled as Pooled
from eqtangents.covariance._readout import (
    Flattened as Flattened,
    Total as Total,
    bounded as bounded,
    dense as dense,
)
from eqtangents.covariance._repeated import (
    Repeated as Repeated,
    ShapeChange as ShapeChange,
)
from eqtangents.covariance._stencil import Stencil as Stencil
from eqtangents.covariance._windows import (
    Window as Window,
    seen_through as seen_through,
)
