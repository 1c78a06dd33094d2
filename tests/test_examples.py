"""An example at its smallest size; others are short enough to be run by hand."""

import importlib

import pytest

from benchmarks.machine import ROOT


@pytest.mark.slow
@pytest.mark.precision("float32")
@pytest.mark.filterwarnings("default")  # of plotting libraries
def test_large_table(tmp_path, monkeypatch):
    """Conjugate gradients find what a factorisation finds, for either kernel."""
    for name in ("matplotlib", "plotnine"):
        pytest.importorskip(name, reason=f"{name} is of the extra `examples`")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.chdir(tmp_path)
    example = importlib.import_module("large_table")
    results = example.study(500, tmp_path, None)
    by_way = {one.way: one for one in results}
    for kind in ("NNGP", "NTK"):
        steps, exact = by_way[kind], by_way[f"{kind}, exactly"]
        assert steps.error == pytest.approx(exact.error, rel=0.05)
        assert steps.error < by_way["boosted trees"].error
    example.draw(results, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").exists()
