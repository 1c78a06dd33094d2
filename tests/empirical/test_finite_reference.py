"""Outputs, Taylor polynomials and kernels of networks with given parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqtangents as eqt
import finite_cases
import reference_cases
from eqtangents.nn._inputs import is_signal, values_of


# The numbers are of double precision, and `test_empirical` has both.
pytestmark = pytest.mark.precision("float64")

CASES = finite_cases.cases()
VALUES = finite_cases.values()
each = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


class Outputs(eqx.Module):
    """A network, whose outputs are a list of arrays."""

    net: eqx.Module

    def __call__(self, x):
        outputs = jax.tree.leaves(self.net(x), is_leaf=is_signal)
        return list(map(values_of, outputs))


def assert_close(actual, expected, what):
    rtol = 1e-9  # of the largest entry
    for ours, theirs in zip(actual, expected, strict=True):
        atol = rtol * max(1.0, np.max(np.abs(theirs)))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=what)


def test_no_case_is_forgotten():
    assert len(CASES) == 20
    assert len(VALUES) == 49


@each
@pytest.mark.slow
def test_outputs_and_polynomials(case):
    model, moved = (Outputs(case.model(name)) for name in ("param", "param1"))
    params = eqx.filter(moved, eqx.is_inexact_array)

    @eqx.filter_jit
    def evaluate(x):
        models = {"f": model, "f_param1": moved, "linearize": eqt.linearize(model)}
        models |= {f"taylor{d}": eqt.taylorize(model, d) for d in range(4)}
        for name, one in models.items():
            if not name.startswith("f"):
                models[name] = eqx.tree_at(lambda m: m.params, one, params)
        return {name: jax.vmap(one)(x) for name, one in models.items()}

    for side in (1, 2):
        for name, outputs in evaluate(case.batch(side)).items():
            assert_close(outputs, case.outputs(f"{name}_x{side}"), f"{name}_x{side}")


@each
@pytest.mark.slow
def test_empirical_kernels(case):
    model = Outputs(case.model("param"))
    x1, x2 = case.batch(1), case.batch(2)
    for tag, second in (("12", x2), ("11", None)):
        full = eqt.empirical_kernel(model, x1, second, trace_axes=())
        for variant in case.variants:
            for kind in ("nngp", "ntk"):
                expected = variant.expected(kind, tag)
                kernels = [
                    variant.of_full(np.asarray(getattr(kernel, kind)), axes)
                    for kernel, axes in zip(full, case.output_axes, strict=True)
                ]
                assert_close(kernels, expected, f"{variant.id}.{kind}_{tag}")


@each
@pytest.mark.slow
def test_traced_and_diagonal_axes(case):
    model, x1, x2 = Outputs(case.model("param")), case.batch(1), case.batch(2)
    for variant in case.variants:
        (axes, *others) = case.output_axes
        named = variant.ours(axes)
        if others or "N" in [*named[0], *named[1]]:
            continue  # ours pairs axes of one example, the same of every output
        order = ["C", *sorted(axis for axis in axes if isinstance(axis, int))]
        trace, diagonal = ([order.index(label) for label in n] for n in named)
        (found,) = eqt.empirical_ntk(
            model, x1, x2, trace_axes=trace, diagonal_axes=sorted(diagonal)
        )
        # Ours begins with the examples, theirs with the diagonal.
        count = len(diagonal)
        free = (found.ndim - 2 - count) // 2
        found = np.moveaxis(found, range(2, 2 + count), range(count))
        found = np.moveaxis(found, count + 1, count + 1 + free)
        assert_close([found], variant.expected("ntk", "12"), variant.id)


@pytest.mark.parametrize(
    "case", [c for c in CASES if "ntk_vp" in c.arrays], ids=lambda case: case.name
)
@pytest.mark.slow
def test_products_with_vectors(case):
    operator = eqt.NTKOperator(
        Outputs(case.model("param")), case.batch(1), case.batch(2)
    )
    cotangents = case.outputs("ntk_vp_cotangents")
    product = operator.mv([jnp.asarray(c, finite_cases.DTYPE) for c in cotangents])
    assert_close(product, case.outputs("ntk_vp"), "ntk_vp")


@pytest.mark.quick(12)
@pytest.mark.parametrize("row", VALUES, ids=lambda row: row[0])
def test_nonlinearities(row):
    _, spec, x, expected = row
    build, _ = reference_cases.translate(spec, ("N", "C"))
    actual = jax.vmap(build())(jnp.asarray(x, finite_cases.DTYPE))
    assert_close([actual], [expected], spec["op"])
