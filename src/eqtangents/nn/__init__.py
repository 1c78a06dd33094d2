"""Layers of networks of finite and of infinite width.

Each layer is one class with three methods: `init` draws its parameters, `__call__`
applies it to one example, and `propagate` pushes covariances through it in the limit
of infinitely many channels.
"""

from eqtangents.nn._activations import (
    ABRelu as ABRelu,
    Abs as Abs,
    AbstractActivation as AbstractActivation,
    Erf as Erf,
    LeakyRelu as LeakyRelu,
    Relu as Relu,
)
from eqtangents.nn._affine import AbstractAffine as AbstractAffine
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
from eqtangents.nn._layer import (
    AbstractLayer as AbstractLayer,
    AbstractParameterless as AbstractParameterless,
    LayerError as LayerError,
)
from eqtangents.nn._linear import Linear as Linear
from eqtangents.nn._pool import (
    AvgPool as AvgPool,
    GlobalAvgPool as GlobalAvgPool,
    GlobalSumPool as GlobalSumPool,
    SumPool as SumPool,
)
from eqtangents.nn._reshape import Flatten as Flatten, Identity as Identity
