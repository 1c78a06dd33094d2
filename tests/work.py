"""How much a program computes, counted in what JAX traces."""

import jax


def work(fn, *args):
    """The numbers that a program computes, loops counted as often as they run."""

    def of(jaxpr, times):
        total = 0
        for eqn in jaxpr.eqns:
            inner = times * eqn.params.get("length", 1)
            below = [
                one.jaxpr
                for value in eqn.params.values()
                for one in (value if isinstance(value, tuple | list) else (value,))
                if hasattr(one, "jaxpr") and hasattr(one.jaxpr, "eqns")
            ]
            below += [v for v in eqn.params.values() if hasattr(v, "eqns")]
            total += sum(of(one, inner) for one in below)
            if not below:
                total += times * sum(v.aval.size for v in eqn.outvars)
        return total

    return of(jax.make_jaxpr(fn)(*args).jaxpr, 1)
