"""Neural networks of finite and infinite width, on JAX and Equinox."""

from eqtangents import nn as nn, predict as predict
from eqtangents._kernel import (
    Kernel as Kernel,
    kernel as kernel,
    nngp as nngp,
    ntk as ntk,
)
