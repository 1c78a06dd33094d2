"""Functions that were made around arrays, which are differentiated like parameters."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents._closures import with_closures_told
from precision import DTYPE, by_precision


class Scaled(eqx.Module):
    slope: jax.Array

    def __call__(self, x):
        return jax.nn.softplus(self.slope * x)


def around(slope):
    return lambda x: jax.nn.softplus(slope * x)


def around_a_function(slope):
    held = {"slopes": [slope]}

    def scaled(x, *, by=1.0):
        return held["slopes"][0] * by * x

    return lambda x: jax.nn.softplus(scaled(x))


HOLDING = {
    "around": around,
    "around a function": around_a_function,
    "default": lambda slope: lambda x, by=slope: jax.nn.softplus(by * x),
    "default by name": lambda slope: lambda x, *, by=slope: jax.nn.softplus(by * x),
    "partial": lambda slope: functools.partial(lambda a, x: around(a)(x), slope),
    "partial by name": lambda slope: functools.partial(
        lambda x, by: jax.nn.softplus(by * x), by=slope
    ),
}


def total(make, slope, kernel=eqt.ntk):
    x = jr.normal(jr.key(0), (3, 4), DTYPE)
    net = nn.Sequential([nn.Linear(4), nn.Elementwise(make(slope)), nn.Linear(1)])
    return jnp.sum(jnp.sin(kernel(net, x)))


@pytest.mark.quick(1)
@pytest.mark.parametrize("kernel", [eqt.ntk, eqt.nngp])
@pytest.mark.parametrize("make", HOLDING.values(), ids=HOLDING.keys())
def test_they_have_the_derivatives_of_modules(make, kernel):
    slope, rtol = jnp.asarray(1.3, DTYPE), by_precision(float64=1e-8, float32=1e-3)
    found, expected = (
        jax.value_and_grad(lambda s, m=m: total(m, s, kernel))(slope)
        for m in (make, Scaled)
    )
    np.testing.assert_allclose(found, expected, rtol=rtol)


@pytest.mark.parametrize("make", HOLDING.values(), ids=HOLDING.keys())
def test_what_they_hold_is_a_leaf(make):
    """And the function of it is the one that it was."""

    def values(slope):
        told = with_closures_told(make(slope))
        arrays, rest = eqx.partition(told, eqx.is_array)
        doubled = eqx.combine(jax.tree.map(lambda leaf: 2 * leaf, arrays), rest)
        return told(x), doubled(x)

    slope, x = jnp.asarray(1.3, DTYPE), jnp.asarray([-1.0, 0.5], DTYPE)
    expected = make(slope)(x), make(2 * slope)(x)
    found = jax.jit(values)(slope)
    np.testing.assert_allclose(
        found, expected, rtol=by_precision(float64=1e-14, float32=1e-6)
    )


@pytest.mark.slow
def test_derivatives_of_other_kinds():
    slope, rtol = jnp.asarray(1.3, DTYPE), by_precision(float64=1e-8, float32=1e-3)
    of = lambda slope: total(around, slope)
    expected = jax.grad(lambda slope: total(Scaled, slope))(slope)
    forwards = jax.jvp(of, (slope,), (jnp.ones_like(slope),))[1]
    mapped = jax.vmap(jax.grad(of))(jnp.stack([slope, slope]))
    for found in (jax.jit(jax.grad(of))(slope), forwards, *mapped):
        np.testing.assert_allclose(found, expected, rtol=rtol)


def test_what_holds_nothing_that_is_traced_stays_itself():
    known = jnp.asarray(2.0, DTYPE)

    def recursive(x, n=2):
        return x if not n else recursive(known * x, n - 1)

    partial = functools.partial(lambda a, x: a * x, known)
    for fn in (around(known), recursive, partial, jnp.tanh):
        assert with_closures_told(fn) is fn
        assert jax.jit(lambda x, fn=fn: with_closures_told(fn)(x))(known) == fn(known)


@pytest.mark.precision("float32")
def test_gradients_in_parameters_of_functions_are_programs_of_some_size():
    """Not one that writes each power of the correlation out for each coefficient."""

    def lines(of):
        slope = jnp.asarray(1.3, DTYPE)
        return jax.jit(of).lower(slope).compile().as_text().count("\n")

    of = lambda slope: total(Scaled, slope)
    assert lines(jax.grad(of)) < 8 * lines(of)
