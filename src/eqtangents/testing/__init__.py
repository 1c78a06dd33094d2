"""Laws that layers, duals and rules of training obey, to try your own on."""

from eqtangents.testing._dual import check_dual as check_dual
from eqtangents.testing._layer import check_layer as check_layer
from eqtangents.testing._rule import Optimiser as Optimiser, check_rule as check_rule
