"""Angles from their cosines: digits, and what they cost."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqtangents.duals import ErfDual
from eqtangents.duals._elementary import (
    angle_factors,
    arcsin,
    inverse_root,
    product_of_ends,
    reciprocal,
    root_and_inverse,
)
from precision import DTYPE


def angles(z):
    """`arccos(1 - z)`, and its sine minus it times its cosine, by a power series."""
    theta = 2 * np.arcsin(np.sqrt(z / 2))
    terms = [
        (-1) ** (k + 1) * 2 * k * theta ** (2 * k + 1) / math.factorial(2 * k + 1)
        for k in range(1, 13)
    ]
    return theta, sum(reversed(terms))


def test_both_factors_have_all_digits_at_all_angles():
    z = jnp.asarray(
        [*np.geomspace(1e-30, 1, 2000), *np.linspace(0.001, 1, 4000)], DTYPE
    )
    exact = np.asarray(z).astype(np.longdouble)
    theta, integral = angles(exact)
    found = angle_factors(z)
    scales = np.sqrt(exact), exact * np.sqrt(exact)
    eps = float(jnp.finfo(z.dtype).eps)
    for factor, of, scale in zip(found, (theta, integral), scales, strict=True):
        errors = np.asarray(factor).astype(np.longdouble) / (of / scale) - 1
        # 3.001 on processors that round a product and a sum at once.
        assert np.abs(errors).max() < 3.5 * eps
        assert abs(errors.mean()) < 0.6 * eps


def test_first_terms_are_exact():
    """Deep networks add up the errors of small angles."""
    zero = jnp.zeros((), DTYPE)
    angle, integral = angle_factors(zero)
    assert (angle, integral) == (
        jnp.asarray(2**0.5, DTYPE),
        jnp.asarray(2**0.5 / 1.5, DTYPE),
    )
    tiny = jnp.asarray([1e-12, -1e-12], DTYPE)
    np.testing.assert_array_equal(arcsin(tiny, jnp.ones_like(tiny)), tiny)


def test_inverse_sines_have_all_digits():
    angle = np.linspace(-1.5, 1.5, 3001).astype(np.longdouble)
    sine, square = (jnp.asarray(f, DTYPE) for f in (np.sin(angle), np.cos(angle) ** 2))
    eps = float(jnp.finfo(sine.dtype).eps)
    np.testing.assert_allclose(arcsin(sine, square), angle.astype(float), rtol=4 * eps)


@pytest.mark.precision("float64")
def test_twice_the_digits_cost_little_more():
    def operations(dtype):
        return len(jax.make_jaxpr(angle_factors)(jnp.ones(3, dtype)).eqns)

    assert operations(jnp.float64) < 1.6 * operations(jnp.float32)


@pytest.mark.precision("float64")
def test_small_variances_keep_their_digits_through_thousands_of_layers():
    dual = ErfDual(a=math.pi**0.5 / 2)

    def after_many_layers(dtype):
        v = jnp.linspace(0.3, 3, 40, dtype=dtype)
        v = jax.lax.fori_loop(0, 10_000, lambda _, v: dual.diagonal(v), v)
        return np.asarray(v, np.float64)

    single, double = map(after_many_layers, (jnp.float32, jnp.float64))
    np.testing.assert_allclose(single, double, rtol=5e-6)


@pytest.mark.precision("float64")
@pytest.mark.parametrize(
    ("function", "like"),
    [
        (reciprocal, lambda x: 1 / x),
        (inverse_root, lambda x: x**-0.5),
        (root_and_inverse, lambda x: (x**0.5, x**-0.5)),
        (lambda x: product_of_ends(x, x[::-1]), lambda x: x * x[::-1]),
    ],
    ids=["reciprocal", "inverse_root", "root_and_inverse", "product_of_ends"],
)
def test_rules_without_divisions_are_the_derivatives(function, like):
    x = jnp.asarray([0.3, 1.0, 2.5, 40.0])

    def derivatives(f):
        one = jax.jacfwd(f)
        return f(x), one(x), jax.jacrev(f)(x), jax.jacfwd(one)(x)

    found, expected = (jax.tree.leaves(derivatives(f)) for f in (function, like))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)
