"""Displacement-major covariances of infinitely wide networks.

A covariance is not an array but a rule that gives blocks of it to whoever asks. It
names the covariances that it is computed from, and which entries of these it asks for,
so that networks are followed from their first layer on.

`_outline` has the facts that layers ask about, `_frame` how blocks are asked for,
`_lattice` the index arithmetic, `_table` what is stored at all displacements, and each
other file one kind of rule. Nothing here knows of layers.
"""

import typing as _typing

from eqtangents._buffers import materialised as materialised
from eqtangents._other_names import names_told as _names_told
from eqtangents.covariance._affine import Affine as Affine
from eqtangents.covariance._block import Block as Block
from eqtangents.covariance._branches import (
    BranchProduct as BranchProduct,
    BranchSum as BranchSum,
    ChannelConcat as ChannelConcat,
    SpatialConcat as SpatialConcat,
    independent as independent,
    uncorrelated as uncorrelated,
)
from eqtangents.covariance._coincidence import (
    DroppedOut as DroppedOut,
    LocallyConnected as LocallyConnected,
    SpatialBroadcast as SpatialBroadcast,
)
from eqtangents.covariance._covariance import (
    AbstractCovariance as AbstractCovariance,
)
from eqtangents.covariance._depths import (
    ShapeChange as ShapeChange,
    after_steps as after_steps,
)
from eqtangents.covariance._frame import (
    Frame as Frame,
    Scope as Scope,
)
from eqtangents.covariance._gathered import Gathered as Gathered
from eqtangents.covariance._input import (
    InputCovariance as InputCovariance,
    flattened_examples as flattened_examples,
    mapped_examples as mapped_examples,
)
from eqtangents.covariance._lattice import picked as picked
from eqtangents.covariance._mapped import (
    Mapped as Mapped,
    PositionValues as PositionValues,
)
from eqtangents.covariance._nonlinear import (
    Centred as Centred,
    Nonlinear as Nonlinear,
)
from eqtangents.covariance._pointwise import (
    Normalised as Normalised,
    Scaled as Scaled,
    ScaledGains as ScaledGains,
    SummedChannels as SummedChannels,
    TrainedGains as TrainedGains,
    Vanished as Vanished,
)
from eqtangents.covariance._pooled import Pooled as Pooled
from eqtangents.covariance._readout import (
    Flattened as Flattened,
    Total as Total,
)
from eqtangents.covariance._recurrent import (
    Recurrence as Recurrence,
    States as States,
)
from eqtangents.covariance._repeated import Repeated as Repeated
from eqtangents.covariance._shared import output_block as output_block
from eqtangents.covariance._stencil import Stencil as Stencil
from eqtangents.covariance._table import dense_block as dense_block
from eqtangents.covariance._tokens import EqualTokens as EqualTokens
from eqtangents.covariance._window import (
    Window as Window,
    seen_through as seen_through,
)


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__)
