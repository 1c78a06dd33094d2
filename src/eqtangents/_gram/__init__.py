"""Kernels over whole data sets, on one device or a mesh of them.

`_plan` says which tiles of the matrix each device computes, `_pairs` what a tile is,
`_mesh` runs the plan over a mesh, `_progress` tells how far it is, and `_gram` is the
function that users call.
"""

from eqtangents._gram._gram import gram as gram
from eqtangents._gram._progress import Progress as Progress
