"""Networks from models that were written with Equinox's layers."""

from eqtangents._equinox._lift import from_equinox as from_equinox
