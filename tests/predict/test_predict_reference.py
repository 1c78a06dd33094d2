"""Every call of Neural Tangents' predictors that the reference recorded."""

import numpy as np
import pytest

import predict_cases
from precision import by_precision


CASES = predict_cases.cases()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_agrees_with_the_reference(case):
    results = case.results()
    outputs = {o for call in case.doc["calls"] for o in call["outputs"]}
    assert {where.split(".", 1)[1] for where, *_ in results} == {
        output for output in outputs if not output.endswith("_precise")
    }
    rtol = by_precision(float64=1e-6, float32=1e-3)  # of the largest entry
    for where, ours, expected in results:
        scale = max(np.max(np.abs(expected)), 1e-2 if "cov" in where else 0)
        np.testing.assert_allclose(
            ours, expected, rtol=rtol, atol=rtol * scale, err_msg=where
        )


def test_no_case_is_forgotten():
    assert len(CASES) == 24
