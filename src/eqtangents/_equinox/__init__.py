"""Layers from models that were written with Equinox's, one for one."""

from eqtangents._equinox._affine import Scales as Scales
from eqtangents._equinox._lift import lift as lift
