"""Kernels over whole data sets, on one device or a mesh of them.

`_plan` says which tiles of the matrix each device computes, `_pairs` what a tile is,
`_mesh` runs the plan over a mesh, `_progress` tells how far it is, and `_gram` is the
function that users call. With a store, `_run` has the workers of an executor carry
out a `_task` for each tile of a `_job`, `_manifest` says of what the store is, by its
`_facts`, `_chunks` is where tiles lie, and `_stored` reads them.
"""

from eqtangents._gram._gram import gram as gram
from eqtangents._gram._progress import Progress as Progress
from eqtangents._gram._stored import StoredGram as StoredGram
