"""Layers of networks of finite and of infinite width.

Each layer is one class with three methods: `init` draws its parameters, `__call__`
applies it to one example, and `propagate` pushes covariances through it in the limit
of infinitely many channels.
"""

from eqtangents.nn._activations import Abs as Abs
from eqtangents.nn._activations import ABRelu as ABRelu
from eqtangents.nn._activations import AbstractActivation as AbstractActivation
from eqtangents.nn._activations import Erf as Erf
from eqtangents.nn._activations import LeakyRelu as LeakyRelu
from eqtangents.nn._activations import Relu as Relu
from eqtangents.nn._affine import AbstractAffine as AbstractAffine
from eqtangents.nn._branches import FanInConcat as FanInConcat
from eqtangents.nn._branches import FanInProd as FanInProd
from eqtangents.nn._branches import FanInSum as FanInSum
from eqtangents.nn._branches import FanOut as FanOut
from eqtangents.nn._containers import Parallel as Parallel
from eqtangents.nn._containers import Repeat as Repeat
from eqtangents.nn._containers import Residual as Residual
from eqtangents.nn._containers import Sequential as Sequential
from eqtangents.nn._conv import Conv as Conv
from eqtangents.nn._layer import AbstractLayer as AbstractLayer
from eqtangents.nn._layer import AbstractParameterless as AbstractParameterless
from eqtangents.nn._layer import LayerError as LayerError
from eqtangents.nn._linear import Linear as Linear
from eqtangents.nn._pool import AvgPool as AvgPool
from eqtangents.nn._pool import GlobalAvgPool as GlobalAvgPool
from eqtangents.nn._pool import GlobalSumPool as GlobalSumPool
from eqtangents.nn._pool import SumPool as SumPool
from eqtangents.nn._reshape import Flatten as Flatten
from eqtangents.nn._reshape import Identity as Identity
