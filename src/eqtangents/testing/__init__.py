"""Laws that layers, duals and rules of training obey, to try your own on."""
