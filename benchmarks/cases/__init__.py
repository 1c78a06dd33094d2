"""The cases, as plain data: a module for each topic.

Each has `cases(tiny=...)`, by name, and `SMOKE`, the names that a smoke run takes: all
but those that differ from another in size alone.
"""

from benchmarks.cases import (
    distillation,
    finite_width,
    gradients,
    kernels,
    nonlinearities,
    precision,
    predictions,
    trained_networks,
)


TOPICS = {
    "kernels": kernels,
    "gradients": gradients,
    "distillation": distillation,
    "finite_width": finite_width,
    "predictions": predictions,
    "nonlinearities": nonlinearities,
    "precision": precision,
    "trained_networks": trained_networks,
}
