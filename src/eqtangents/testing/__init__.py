"""Laws that layers, duals and rules of training obey, to try your own on."""

from eqtangents.testing._layer import check_layer as check_layer
