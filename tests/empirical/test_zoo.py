"""All computations of tangent kernels agree with brute force, on many functions."""

import functools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from empirical_zoo import ZOO
from eqtangents._jaxpr import traced
from eqtangents.empirical._analyse import analyse
from eqtangents.empirical._batches import example_of
from eqtangents.empirical._compute import from_rows
from eqtangents.empirical._network import Network
from eqtangents.empirical._pairing import pairing
from precision import by_precision


# Rules act on equations and shapes: they are the same in each precision.
pytestmark = [pytest.mark.precision("float64"), pytest.mark.slow]

N1, N2 = 3, 2
REVERSE_ONLY = {"custom_vjp", "custom_vjp_inside"}


def brute_force(call, params, x1, x2):
    """Jacobians by reverse mode, multiplied."""

    def jacobian(x):
        def outputs(params):
            out = jax.vmap(lambda one: call(params, one))(x)
            return jax.tree.map(lambda y: y.astype(jnp.result_type(float)), out)

        def rows(jacobians):
            return jnp.concatenate(jacobians, axis=1)

        shapes = jax.eval_shape(outputs, params)
        count = sum(p.size for p in jax.tree.leaves(params))
        full = jax.jacrev(outputs)(params)
        leaves = jax.tree.structure(shapes).flatten_up_to(full)
        return [
            rows(
                [
                    j.reshape(s.size, math.prod(j.shape[len(s.shape) :]))
                    for j in jax.tree.leaves(leaf)
                ]
            ).reshape(s.shape[0], s.size // max(s.shape[0], 1), count)
            for leaf, s in zip(leaves, jax.tree.leaves(shapes), strict=True)
        ]

    return [
        jnp.einsum("iap,jbp->ijab", j1, j2)
        for j1, j2 in zip(jacobian(x1), jacobian(x2), strict=True)
    ]


def by_structure(call, params, x1, x2):
    """With the structure of all parameters used, whether that is cheap or not."""
    network, example = Network(call, params), example_of(x1)
    program = traced(network, network.leaves, example)
    recipe = analyse(program, network.leaves, example, frozenset())
    kernels, owner = [], network.owner
    for i, output in enumerate(recipe.outputs):
        found = pairing(output.shape, (), ())
        terms = from_rows(recipe, network.leaves, owner, x1, x2, i, found, 1000)
        zero = jnp.zeros((N1, N2, *output.shape, *output.shape), output.dtype)
        kernels.append(sum(map(found.assembled, terms.values()), start=zero))
    return kernels


# Compiling is all that takes time here, and nothing runs twice.
UNOPTIMISED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def all_kernels(call, reverse_only, params, x1, x2):
    ways = ["jacobian"] if reverse_only else ["jacobian", "vector_products"]
    kernels = {
        way: jax.tree.leaves(
            eqt.empirical_ntk(call, x1, x2, params, trace_axes=(), implementation=way)
        )
        for way in ways
    }
    kernels["all structure"] = by_structure(call, params, x1, x2)
    return kernels, brute_force(call, params, x1, x2)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.sampled(2)
def test_computations_agree(name, getkey):
    function = ZOO[name]
    params, x1 = function.draw(getkey(), N1)
    x2 = jr.normal(getkey(), (N2, *function.x))
    compute = functools.partial(all_kernels, function.call, name in REVERSE_ONLY)
    compute = jax.jit(compute, compiler_options=UNOPTIMISED)
    kernels, truth = compute(params, x1, x2)
    rtol = by_precision(float64=1e-8, float32=1e-4)
    for way, found in kernels.items():
        for kernel, expected in zip(found, truth, strict=True):
            scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
            np.testing.assert_allclose(
                kernel.reshape(expected.shape),
                expected,
                rtol=0,
                atol=rtol * scale,
                err_msg=way,
            )
