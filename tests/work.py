"""How much a program computes, counted in what JAX traces."""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp


def differentiated(fn, x):
    """What a function returns where it is differentiated, compiled."""
    still = jax.tree.map(jnp.zeros_like, eqx.filter(x, eqx.is_inexact_array))
    return eqx.filter_jit(lambda x: eqx.filter_jvp(fn, (x,), (still,))[0])(x)


def work(fn, *args):
    """The numbers that a program computes, loops counted as often as they run."""
    return sum(
        times * sum(v.aval.size for v in eqn.outvars)
        for eqn, times in operations(fn, *args)
    )


def operations(fn, *args):
    """The operations of a program, and how often each runs."""

    def of(jaxpr, times):
        for eqn in jaxpr.eqns:
            inner = times * eqn.params.get("length", 1)
            # Of a scatter, the operation on two numbers is none of the program.
            params = [v for k, v in eqn.params.items() if k != "update_jaxpr"]
            below = [
                one.jaxpr
                for value in params
                for one in (value if isinstance(value, tuple | list) else (value,))
                if hasattr(one, "jaxpr") and hasattr(one.jaxpr, "eqns")
            ]
            below += [v for v in params if hasattr(v, "eqns")]
            for one in below:
                yield from of(one, inner)
            if not below:
                yield eqn, times

    return of(jax.make_jaxpr(fn)(*args).jaxpr, 1)


def times_computed(program, costly):
    """How often each entry that follows from costly operations is computed.

    Within a fusion of a compiled program, each slice of what was computed there
    computes its part again.
    """
    found = []
    for body in re.split(r"\n(?=(?:ENTRY )?%[\w.\-]+ \()", program):
        if "fused_computation" not in body.split("(")[0]:
            continue
        sizes, sliced = {}, {}  # of what follows from them; operands come first
        for name, shape, operation, rest in re.findall(
            r"(%[\w.\-]+) = f\d+\[([\d,]*)\]\S* ([\w\-]+)\((.*)", body
        ):
            size = math.prod(map(int, filter(None, shape.split(","))))
            operands = re.findall(r"%[\w.\-]+", rest.split("), ")[0])
            if operation in costly or any(one in sizes for one in operands):
                sizes[name] = size
            if operation == "slice" and operands[0] in sizes:
                sliced[operands[0]] = sliced.get(operands[0], 0) + size
        found += [max(sliced.get(name, 0) / size, 1) for name, size in sizes.items()]
    return found
