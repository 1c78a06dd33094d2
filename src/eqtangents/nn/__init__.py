"""Layers of networks of finite and of infinite width.

Each layer is one class with three methods: `init` draws its parameters, `__call__`
applies it to one example, and `propagate` pushes covariances through it in the limit
of infinitely many channels.
"""

import typing as _typing

from eqtangents._other_names import names_told as _names_told
from eqtangents.nn._activations import AbstractActivation as AbstractActivation
from eqtangents.nn._affine import AbstractAffine as AbstractAffine
from eqtangents.nn._attend import Attend as Attend
from eqtangents.nn._attention import GlobalSelfAttention as GlobalSelfAttention
from eqtangents.nn._batch_norm import BatchNorm as BatchNorm
from eqtangents.nn._branches import (
    FanInConcat as FanInConcat,
    FanInProd as FanInProd,
    FanInSum as FanInSum,
    FanOut as FanOut,
)
from eqtangents.nn._channel_sum import ChannelSum as ChannelSum
from eqtangents.nn._conv import Conv as Conv
from eqtangents.nn._conv_local import ConvLocal as ConvLocal
from eqtangents.nn._conv_transpose import ConvTranspose as ConvTranspose
from eqtangents.nn._dot_general import DotGeneral as DotGeneral
from eqtangents.nn._dropout import Dropout as Dropout
from eqtangents.nn._elementwise import (
    Elementwise as Elementwise,
    FromDual as FromDual,
)
from eqtangents.nn._embedding import PositionalEmbedding as PositionalEmbedding
from eqtangents.nn._expanded import (
    Elu as Elu,
    Gelu as Gelu,
    Selu as Selu,
    Sigmoid as Sigmoid,
    Silu as Silu,
    Softplus as Softplus,
    Tanh as Tanh,
)
from eqtangents.nn._extremes import FanInMax as FanInMax, FanInMin as FanInMin
from eqtangents.nn._graph import Aggregate as Aggregate
from eqtangents.nn._group_norm import GroupNorm as GroupNorm
from eqtangents.nn._habits import OF_LAYERS as _OF_LAYERS
from eqtangents.nn._index import Index as Index, Slice as Slice
from eqtangents.nn._inputs import (
    Edges as Edges,
    Extras as Extras,
    Graph as Graph,
    Masked as Masked,
    Signal as Signal,
    unwrap as unwrap,
)
from eqtangents.nn._layer import (
    AbstractLayer as AbstractLayer,
    AbstractParameterless as AbstractParameterless,
    AbstractUnary as AbstractUnary,
    LayerError as LayerError,
    many_inputs as many_inputs,
    one_input as one_input,
)
from eqtangents.nn._layer_norm import LayerNorm as LayerNorm
from eqtangents.nn._linear import Linear as Linear
from eqtangents.nn._mix import Mix as Mix
from eqtangents.nn._parallel import Parallel as Parallel, Residual as Residual
from eqtangents.nn._parameterization import (
    NTK as NTK,
    AbstractParameterization as AbstractParameterization,
    Fans as Fans,
    MuP as MuP,
    ParameterScale as ParameterScale,
    Standard as Standard,
)
from eqtangents.nn._piecewise import HardTanh as HardTanh, Relu6 as Relu6
from eqtangents.nn._polynomials import (
    Hermite as Hermite,
    Monomial as Monomial,
    Polynomial as Polynomial,
)
from eqtangents.nn._pool import (
    AvgPool as AvgPool,
    GlobalAvgPool as GlobalAvgPool,
    GlobalSumPool as GlobalSumPool,
    MaxPool as MaxPool,
    SumPool as SumPool,
)
from eqtangents.nn._prepare import Prepare as Prepare
from eqtangents.nn._rates import rate_of as rate_of
from eqtangents.nn._rearrange import (
    MoveChannels as MoveChannels,
    Pad as Pad,
    Rearrange as Rearrange,
    Unfold as Unfold,
)
from eqtangents.nn._rectifiers import (
    ABRelu as ABRelu,
    Abs as Abs,
    LeakyRelu as LeakyRelu,
    RectifiedMonomial as RectifiedMonomial,
    Relu as Relu,
    Sign as Sign,
)
from eqtangents.nn._recurrent import Last as Last, Recurrent as Recurrent
from eqtangents.nn._repeat import Repeat as Repeat
from eqtangents.nn._reshape import Flatten as Flatten, Identity as Identity
from eqtangents.nn._resize import ImageResize as ImageResize
from eqtangents.nn._rms_norm import RMSNorm as RMSNorm
from eqtangents.nn._scale import Scale as Scale
from eqtangents.nn._sequential import Sequential as Sequential
from eqtangents.nn._smooth import (
    Cos as Cos,
    Erf as Erf,
    Exp as Exp,
    ExpNormalized as ExpNormalized,
    Gabor as Gabor,
    Gaussian as Gaussian,
    Rbf as Rbf,
    SigmoidLike as SigmoidLike,
    Sin as Sin,
)
from eqtangents.nn._tokens import Embedding as Embedding
from eqtangents.nn._trained import ChannelGains as ChannelGains, Learned as Learned
from eqtangents.nn._wiring import Wiring as Wiring


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__, _OF_LAYERS)
