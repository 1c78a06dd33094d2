"""Derivatives of a scalar of a tangent kernel, for either library: it knows neither."""

import jax
import jax.numpy as jnp

from benchmarks.children.clock import timed


def derivatives(ntk, job, x1, x2, weights):
    """The derivative, and a record of it that has one of the scalar beside.

    `ntk(network, x1, x2)` is the library's.
    """

    def scalar(inputs, factor):
        network = job["network"]
        if job["to"] == "weight_std":
            network = scaled(network, factor)
        return jnp.sum(ntk(network, *inputs) * weights)

    place = ("inputs", "weight_std").index(job["to"])
    derivative = jax.grad(scalar, place)
    if job["order"] == 2:
        derivative = jax.jacfwd(derivative, place)
    arguments = ((x1, x2), jnp.ones((), x1.dtype))
    options = {"repeats": job["repeats"], "at_least": 1.0}
    answer, record = timed(derivative, *arguments, **options)
    _, record["forward"] = timed(scalar, *arguments, **options)
    return answer, record


def scaled(network, factor):
    """The same network, with the deviation of all its weights times a factor."""
    return [
        [
            kind,
            {k: factor * v if k == "weight_std" else v for k, v in arguments.items()},
        ]
        for kind, arguments in network
    ]
