"""Every reproduction at its small size, with its own settings and some drawn ones."""

import importlib
import pathlib

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, given, settings


pytestmark = [pytest.mark.reproduction, pytest.mark.precision("float64")]

FOLDER = pathlib.Path(__file__).parents[1] / "reproductions"
NAMES = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_claim_holds(name):
    # Not before: plotting libraries are no part of other tests.
    laboratory, module = (
        importlib.import_module(f"reproductions.{one}") for one in ("_laboratory", name)
    )
    try:
        result = module.run("small")
    except laboratory.NoDigits as error:
        pytest.skip(str(error))
    assert module.check(result)
    module.draw(result)
    ranges = getattr(module, "SETTINGS", {})
    if not ranges:
        return

    # A counterexample is any: to look for a smaller one would take many runs.
    @settings(max_examples=2, derandomize=True, phases=[Phase.generate])
    @given(**{key: st.floats(*bounds) for key, bounds in ranges.items()})
    def holds_for_any(**drawn):
        module.check(module.run("small", **drawn))

    holds_for_any()
