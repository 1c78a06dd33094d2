"""Neural networks of finite and infinite width, on JAX and Equinox."""

from eqtangents import nn as nn
from eqtangents import predict as predict
from eqtangents._kernel import Kernel as Kernel
from eqtangents._kernel import kernel as kernel
from eqtangents._kernel import nngp as nngp
from eqtangents._kernel import ntk as ntk
