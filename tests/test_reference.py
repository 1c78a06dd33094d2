"""Every case of the reference that our layers can express.

`python -m tests.reference_cases` lists them, and the others.
"""

import types

import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest

import brute_force
import eqtangents as eqt
import reference_cases
from eqtangents import nn
from precision import by_precision


TAGS = ("12", "11")  # `x1` with `x2`, and `x1` with itself
SUPPORTED = reference_cases.supported_cases()


def _rtol():
    """Relative to the largest entry."""
    return by_precision(float64=1e-6, float32=1e-4)


def _first_of_each_operation():
    """Cases that show some operation for the first time."""
    seen = set()
    for case in SUPPORTED:
        if set(case.data.meta["ops"]) - seen:
            yield case
        seen |= set(case.data.meta["ops"])


FIRST = list(_first_of_each_operation())
NAMED = [case for case in SUPPORTED if case.name.startswith("named__")]
RANDOM = [case for case in SUPPORTED if case not in NAMED]


def _marked(cases):
    """The others are slow: they combine what those show."""
    return [
        case if case in FIRST else pytest.param(case, marks=pytest.mark.slow)
        for case in cases
    ]


# Where the reference refuses, we raise a `ValueError` that says this, or (`None`) work.
WHERE_THE_REFERENCE_REFUSES = {
    "named__call_diagonal_spatial_refused": None,
    "named__raise_bad_padding": "padding",
    "named__raise_bad_parameterization": "parameterization",
    "named__raise_fan_in_concat_time_nongaussian": "FanInConcat.*correlated",
    "named__raise_fan_in_sum_nongaussian": "FanInSum.*correlated",
    "named__raise_fan_in_sum_shapes": "channels|shapes",
    "named__dropout_on_input": None,
    "named__mask_pool_circular": None,
    "named__ntbug_index_take_full": None,
    "named__raise_aggregate_sparse_bad_shape": None,  # three columns: two are read
    "named__raise_attention_sqrt_softmax": "closed form",
    "named__raise_attention_sum_nchan": "channels",
    "named__raise_dropout_rate_0": "probability",
    "named__raise_hermite_negative": "must not be negative",
    "named__raise_image_resize_cubic": None,
    "named__raise_layer_norm_no_channel": "axis 0, the channels",
    "named__raise_layer_norm_nongaussian": None,
    # Masks of ours belong to positions: those where any channel is there.
    "named__raise_mask_channel_concat_then_pool": None,
    "named__raise_mask_per_channel_pool": None,
    "named__raise_monomial_6": None,
    "named__raise_nonlinearity_after_channel_concat": "Gaussian",
    "named__raise_nonlinearity_after_flatten": "Gaussian",
    "named__raise_nonlinearity_after_prod": "Gaussian",
    "named__raise_nonlinearity_on_input": None,
    "named__raise_rectified_monomial_negative": "must not be negative",
    "named__raise_repeat_one_conv": None,
    "named__raise_two_nonlinearities": "Gaussian",
}


# Brute force knows all operations but these, and no masks nor graphs.
DRAWN = {
    *("aggregate", "conv_local", "conv_transpose", "dot_general", "dropout"),
    *("global_self_attention", "image_resize", "index", "layer_norm"),
}
WIDTH, DRAWS = 192, 300


def _by_brute_force(case):
    spec = case.data.spec
    return not (DRAWN & set(case.data.meta["ops"]) or spec["mask"] or spec["pattern"])


def _name(value):
    return getattr(value, "name", value)


def _kernels(case, tag, dtype=float):
    dtype = jnp.result_type(dtype)
    x1, x2 = jax.tree.map(lambda x: _of_type(x, dtype), case.inputs(tag))
    return eqt.kernel(case.build(), x1, x2)


def _of_our_type(x):
    return _of_type(x, jnp.result_type(float))


def _of_type(x, dtype):
    floating = np.issubdtype(x.dtype, np.floating)
    return jnp.asarray(x, dtype if floating else None)


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
            atol = _rtol() * np.abs(value).max()
            message = f"{name}_{tag}"
            np.testing.assert_allclose(
                getattr(actual, name), value, rtol=0, atol=atol, err_msg=message
            )


def _assert_agrees_with_drawn_networks(case):
    """The NNGP of wide networks, by standard errors."""
    x, _ = jax.tree.map(_of_our_type, case.inputs("11"))
    net = reference_cases.widened(case, WIDTH)
    values = x.value if isinstance(x, nn.Graph) else x
    values = values.value if isinstance(values, nn.Masked) else values

    @jax.jit
    def draw(key):
        key, *keys = jr.split(key, 1 + values.shape[0])
        model = net.init(values.shape[1:], key=key)
        out = jax.vmap(lambda x, key: model(x, key=key))(x, jnp.stack(keys))
        out = out.value if isinstance(out, nn.Graph) else out
        out = out.value if isinstance(out, nn.Masked) else out
        product = jnp.tensordot(out, out, (1, 1)) / out.shape[1]
        return jnp.moveaxis(product, out.ndim - 1, 1)

    draws = jax.lax.map(draw, jr.split(jr.key(0), DRAWS), batch_size=10)
    limit = np.asarray(eqt.nngp(case.build(), x))
    excess = np.abs(draws.mean(0) - limit) - 5 * draws.std(0) / DRAWS**0.5
    assert excess.max() < 4 / WIDTH * np.abs(limit).max(), (draws.mean(0), limit)


def _assert_right(case):
    if _by_brute_force(case):
        _assert_agrees_with_brute_force(case)
    else:
        _assert_agrees_with_drawn_networks(case)


def _blocks(case):
    """The kernels of a case by tag, cut out of one kernel of both batches.

    That compiles once for both. Where the batches cannot be joined, they are apart.
    """
    tags = [tag for tag in TAGS if case.expected(tag)]
    joint = case.joint_inputs() if len(tags) > 1 else None
    if joint is None:
        return {tag: _kernels(case, tag) for tag in tags}
    kernels = eqt.kernel(case.build(), jax.tree.map(_of_our_type, joint))
    n = jax.tree.leaves(case.inputs("11"))[0].shape[0]
    rows = {"12": np.s_[:n, n:], "11": np.s_[:n, :n]}
    cut = lambda place: jax.tree.map(lambda k: np.asarray(k)[place], kernels)
    return {tag: cut(place) for tag, place in rows.items()}


@pytest.mark.precision("float64")
def test_every_supported_case_is_compared():
    for case in SUPPORTED:
        arrays = {tag: case.expected(tag) for tag in TAGS}
        finite = not case.data.meta.get("nonfinite")  # else what is left is compared
        assert any(arrays.values()) or not finite, case.name
        for found in filter(None, arrays.values()):
            names = {array.name.split("_")[0] for array in found}
            assert {"nngp", "ntk"} <= names or not finite, case.name


@pytest.mark.slow
@pytest.mark.parametrize("case", _marked(NAMED), ids=_name)
def test_kernel_is_the_reference_one(case):
    _assert_blocks_agree(case)


# They combine what the named cases show one by one, and those in both precisions.
@pytest.mark.precision("float64")
@pytest.mark.sampled(4)
@pytest.mark.slow
@pytest.mark.parametrize("case", RANDOM, ids=_name)
def test_kernel_of_a_random_network_is_the_reference_one(case):
    _assert_blocks_agree(case)


def _assert_blocks_agree(case):
    for tag, kernels in _blocks(case).items():
        _assert_agrees(kernels, case.expected(tag), _rtol())


@pytest.mark.precision("float64")  # it uses both
@pytest.mark.slow
@pytest.mark.sampled(16)
@pytest.mark.parametrize("case", SUPPORTED, ids=_name)
def test_single_precision_is_close_to_double(case):
    """Relative to the largest entry of each kernel."""
    single, double = (
        jax.tree.leaves(_kernels(case, "12", dtype)) for dtype in ("float32", "float64")
    )
    for a, b in zip(single, double, strict=True):
        assert a.dtype == jnp.float32
        error = np.abs(np.asarray(a, np.float64) - b).max(initial=0)
        assert error <= 1e-5 * np.abs(b).max(initial=0)


@pytest.mark.parametrize("case", FIRST, ids=_name)
@pytest.mark.slow
def test_kernel_of_two_batches_is_the_reference_one(case):
    _assert_agrees(_kernels(case, "12"), case.expected("12"), _rtol())


@pytest.mark.precision("float64")  # NumPy's
@pytest.mark.parametrize("case", _marked(filter(_by_brute_force, SUPPORTED)), ids=_name)
@pytest.mark.slow
def test_brute_force_is_the_reference_one(case):
    # The reference's own rounding, amplified by rectifiers on its diagonal, is 1e-8.
    for tag in TAGS:
        if expected := case.expected(tag):
            _assert_agrees(_brute_force(case, tag), expected, 1e-7)


def _judged(status):
    """Cases of that status; to draw networks takes long."""
    return [
        pytest.param(case, marks=() if _by_brute_force(case) else pytest.mark.slow)
        for case in reference_cases.cases(status)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("case", _judged("refused"), ids=_name)
def test_where_the_reference_refuses_we_explain_or_work(case):
    explanation = WHERE_THE_REFERENCE_REFUSES[case.name]
    if explanation is None:
        _assert_right(case)
    else:
        # Under the runtime type checker, that is the first to see a wrong `Literal`.
        refusal = (ValueError, jaxtyping.TypeCheckError)
        with pytest.raises(refusal, match=explanation):
            _kernels(case, "12")


@pytest.mark.parametrize("case", _judged("defect"), ids=_name)
@pytest.mark.slow
@pytest.mark.sampled(3)
def test_where_the_reference_is_wrong_others_decide(case):
    _assert_right(case)
