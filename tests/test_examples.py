"""The longest example at its smallest size, as users start it."""

import os
import pathlib
import re
import subprocess
import sys

import pytest


ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.precision("float32")
def test_large_table(tmp_path):
    """Steps find what a factorisation finds, and few rows are enough for kernels."""
    for name in ("matplotlib", "plotnine"):
        pytest.importorskip(name, reason=f"{name} is of the extra `table`")
    run = subprocess.run(
        [sys.executable, ROOT / "examples" / "large_table.py", "--rows", "500"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "MPLBACKEND": "agg"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    line = r"^(\S.*?) +500 rows +([\d.]+)%"
    errors = {way: float(e) for way, e in re.findall(line, run.stdout, re.MULTILINE)}
    for kind in ("NNGP", "NTK"):
        assert errors[kind] == pytest.approx(errors[f"{kind}, exactly"], rel=0.03)
        assert errors[kind] < errors["boosted trees"]
    assert (tmp_path / "large_table.png").exists()
