"""What runs in a process of its own, for one library: `benchmarks.harness` starts it.

Each module does one job of a topic: `python -m benchmarks.children.NAME FOLDER`. Those
of the reference, and all that they import, run on its old JAX, without eqtangents.
"""
