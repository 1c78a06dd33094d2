"""The cases, as plain data: a module for each topic.

Each has `cases(tiny=...)`, by name, and `SMOKE`, the names that a smoke run takes: all
but those that differ from another in size alone.
"""

from benchmarks.cases import (
    finite_width,
    kernels,
    nonlinearities,
    precision,
    predictions,
    trained_networks,
)


TOPICS = {
    "kernels": kernels,
    "finite_width": finite_width,
    "predictions": predictions,
    "nonlinearities": nonlinearities,
    "precision": precision,
    "trained_networks": trained_networks,
}
