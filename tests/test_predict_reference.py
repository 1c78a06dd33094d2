"""Every call of Neural Tangents' predictors that the reference recorded."""

import jax
import numpy as np
import pytest

import predict_cases
import reference_cases


if not reference_cases.REFERENCE.exists():
    pytest.skip(reference_cases.MISSING, allow_module_level=True)

X64 = jax.config.read("jax_enable_x64")
RTOL = 1e-6 if X64 else 1e-3  # of the largest entry
CASES = predict_cases.cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_agrees_with_the_reference(case):
    results = case.results()
    outputs = {o for call in case.doc["calls"] for o in call["outputs"]}
    assert {where.split(".", 1)[1] for where, *_ in results} == {
        output for output in outputs if not output.endswith("_precise")
    }
    for where, ours, expected in results:
        scale = max(np.max(np.abs(expected)), 1e-2 if "cov" in where else 0)
        np.testing.assert_allclose(
            ours, expected, rtol=RTOL, atol=RTOL * scale, err_msg=where
        )


def test_no_case_is_forgotten():
    assert len(CASES) == 24
