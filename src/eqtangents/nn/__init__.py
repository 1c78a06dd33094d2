"""Layers of networks of finite and of infinite width.

Each layer is one class with three methods: `init` draws its parameters, `__call__`
applies it to one example, and `propagate` pushes covariances through it in the limit
of infinitely many channels.
"""

import typing as _typing

from eqtangents.nn._activations import AbstractActivation as AbstractActivation
from eqtangents.nn._affine import AbstractAffine as AbstractAffine
from eqtangents.nn._attention import (
    GlobalSelfAttention as GlobalSelfAttention,
    PositionalEmbedding as PositionalEmbedding,
)
from eqtangents.nn._branches import (
    FanInConcat as FanInConcat,
    FanInProd as FanInProd,
    FanInSum as FanInSum,
    FanOut as FanOut,
)
from eqtangents.nn._containers import (
    Parallel as Parallel,
    Repeat as Repeat,
    Residual as Residual,
    Sequential as Sequential,
)
from eqtangents.nn._conv import Conv as Conv
from eqtangents.nn._conv_local import ConvLocal as ConvLocal
from eqtangents.nn._conv_transpose import ConvTranspose as ConvTranspose
from eqtangents.nn._dropout import Dropout as Dropout
from eqtangents.nn._elementwise import (
    Elementwise as Elementwise,
    FromDual as FromDual,
)
from eqtangents.nn._expanded import (
    Elu as Elu,
    Gelu as Gelu,
    Selu as Selu,
    Sigmoid as Sigmoid,
    Silu as Silu,
    Softplus as Softplus,
    Tanh as Tanh,
)
from eqtangents.nn._finite import BatchNorm as BatchNorm, MaxPool as MaxPool
from eqtangents.nn._graph import Aggregate as Aggregate
from eqtangents.nn._habits import absent as _absent
from eqtangents.nn._inputs import Edges as Edges, Graph as Graph, Masked as Masked
from eqtangents.nn._layer import (
    AbstractLayer as AbstractLayer,
    AbstractParameterless as AbstractParameterless,
    LayerError as LayerError,
)
from eqtangents.nn._linear import Linear as Linear
from eqtangents.nn._norm import (
    GroupNorm as GroupNorm,
    LayerNorm as LayerNorm,
    RMSNorm as RMSNorm,
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
    SumPool as SumPool,
)
from eqtangents.nn._positions import (
    DotGeneral as DotGeneral,
    ImageResize as ImageResize,
    Index as Index,
    Slice as Slice,
)
from eqtangents.nn._rectifiers import (
    ABRelu as ABRelu,
    Abs as Abs,
    LeakyRelu as LeakyRelu,
    RectifiedMonomial as RectifiedMonomial,
    Relu as Relu,
    Sign as Sign,
)
from eqtangents.nn._reshape import Flatten as Flatten, Identity as Identity
from eqtangents.nn._scale import Scale as Scale
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


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names

    def __getattr__(name: str) -> _typing.Any:
        """Say what is called otherwise here."""
        raise _absent(name, list(globals()))
