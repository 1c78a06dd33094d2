"""Times eqtangents, beside Neural Tangents: `python -m benchmarks --list`."""
