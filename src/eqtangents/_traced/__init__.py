"""Networks of layers from the programs of models, whatever these are written with.

A model is traced, and its program is walked with parts of a network as values:
`_values` says which there are, `_layout` where their channels and positions stand in an
array, `_builder` makes layers of them, and the rules of primitives, by kind, are in the
other files.
"""

from eqtangents._traced import (  # rules that are registered by name
    _contractions as _contractions,
    _convolutions as _convolutions,
    _dropout as _dropout,
    _extremes as _extremes,
    _scattered as _scattered,
    _selections as _selections,
    _shapes as _shapes,
)
from eqtangents._traced._from_model import (
    from_equinox as from_equinox,
    from_function as from_function,
)
