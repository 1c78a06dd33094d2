"""Speed and memory of eqtangents beside Neural Tangents: `python -m benchmarks`."""
