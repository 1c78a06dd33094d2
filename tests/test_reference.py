"""Every case of the reference that our layers can express.

`python -m tests.reference_cases` lists them, and the others.
"""

import types

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import brute_force
import eqtangents as eqt
import reference_cases


if not reference_cases.REFERENCE.exists():
    pytest.skip(reference_cases.MISSING, allow_module_level=True)

# Relative to the largest entry.
RTOL = 1e-6 if jax.config.jax_enable_x64 else 1e-4

TAGS = ("12", "11")  # `x1` with `x2`, and `x1` with itself
SUPPORTED = reference_cases.supported_cases()
COMPARED = [(case, tag) for case in SUPPORTED for tag in TAGS if case.expected(tag)]

# Where the reference refuses, we raise a `ValueError` that says this, or (`None`) work.
WHERE_THE_REFERENCE_REFUSES = {
    "named__call_diagonal_spatial_refused": None,
    "named__raise_bad_padding": "padding",
    "named__raise_bad_parameterization": "parameterization",
    "named__raise_fan_in_concat_time_nongaussian": "FanInConcat.*correlated",
    "named__raise_fan_in_sum_nongaussian": "FanInSum.*correlated",
    "named__raise_fan_in_sum_shapes": "channels|shapes",
    "named__raise_nonlinearity_after_channel_concat": "Gaussian",
    "named__raise_nonlinearity_after_flatten": "Gaussian",
    "named__raise_nonlinearity_after_prod": "Gaussian",
    "named__raise_nonlinearity_on_input": "Gaussian",
    "named__raise_repeat_one_conv": None,
    "named__raise_two_nonlinearities": "Gaussian",
}


def _name(value):
    return getattr(value, "name", value)


def _kernels(case, tag):
    x1, x2 = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.result_type(float)), case.inputs(tag)
    )
    return eqt.kernel(case.build(), x1, x2)


def _brute_force(case, tag):
    kernels = brute_force.kernels(case.build(), *case.inputs(tag))
    kernels = [types.SimpleNamespace(nngp=nngp, ntk=ntk) for nngp, ntk in kernels]
    return kernels if isinstance(case.output_axes, list) else kernels[0]


def _assert_agrees(kernels, expected, rtol):
    for array in expected:
        actual = array.take_from(kernels)
        assert actual.shape == array.value.shape, array.name
        atol = rtol * np.abs(array.value).max()
        np.testing.assert_allclose(
            actual, array.value, rtol=0, atol=atol, err_msg=array.name
        )


def _assert_agrees_with_brute_force(case):
    for tag in TAGS:
        actual, expected = _kernels(case, tag), _brute_force(case, tag)
        for name in ("nngp", "ntk"):
            value = getattr(expected, name)
            atol = RTOL * np.abs(value).max()
            message = f"{name}_{tag}"
            np.testing.assert_allclose(
                getattr(actual, name), value, rtol=0, atol=atol, err_msg=message
            )


def test_every_supported_case_is_compared():
    assert {case for case, _ in COMPARED} == set(SUPPORTED)
    for case, tag in COMPARED:
        names = {array.name.split("_")[0] for array in case.expected(tag)}
        assert {"nngp", "ntk"} <= names, case.name


@pytest.mark.parametrize(("case", "tag"), COMPARED, ids=_name)
def test_kernel_is_the_reference_one(case, tag):
    _assert_agrees(_kernels(case, tag), case.expected(tag), RTOL)


@pytest.mark.parametrize(("case", "tag"), COMPARED, ids=_name)
def test_brute_force_is_the_reference_one(case, tag):
    # The reference's own rounding, amplified by rectifiers on its diagonal, is 1e-8.
    _assert_agrees(_brute_force(case, tag), case.expected(tag), 1e-7)


@pytest.mark.parametrize("case", reference_cases.cases("refused"), ids=_name)
def test_where_the_reference_refuses_we_explain_or_work(case):
    explanation = WHERE_THE_REFERENCE_REFUSES[case.name]
    if explanation is None:
        _assert_agrees_with_brute_force(case)
    else:
        # Under the runtime type checker, that is the first to see a wrong `Literal`.
        refusal = (ValueError, jaxtyping.TypeCheckError)
        with pytest.raises(refusal, match=explanation):
            _kernels(case, "12")


@pytest.mark.parametrize("case", reference_cases.cases("defect"), ids=_name)
def test_where_the_reference_is_wrong_brute_force_decides(case):
    _assert_agrees_with_brute_force(case)
