"""Laws that layers, duals and rules of training obey, to try your own on."""

import typing as _typing

from eqtangents._other_names import names_told as _names_told
from eqtangents.testing._dual import check_dual as check_dual
from eqtangents.testing._layer import check_layer as check_layer
from eqtangents.testing._rule import Optimiser as Optimiser, check_rule as check_rule


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__)
