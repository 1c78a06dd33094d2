r"""Truncated Taylor series through any function that JAX can differentiate.

A value is the series $y(t) = \sum_k y_k t^k$ of its coefficients. Three ideas carry
all primitives. A product is a convolution of coefficients, and a quotient undoes one.
For everything else $y' = \partial g(x)\, x'$: the series of the derivative, one order
less, comes from the program that JAX traces for it, by the same rules. So there is no
table of functions, and custom derivatives are respected. The derivative of a usual
function needs that function once (`exp`, `tanh`), or one other (`sin`): the cost is
polynomial in the order, where nested forward mode pays `2**order`.

**Source:** Griewank & Walther 2008, "Evaluating Derivatives", chapter 13, for series;
Bettencourt et al. 2019, "Taylor-Mode Automatic Differentiation for Higher-Order
Derivatives in JAX".
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.extend.core import primitives
from jaxtyping import PyTree

from eqtangents._jaxpr import Environment, bind, jaxpr_and_consts, live, scan_sizes


# Coefficients, lowest first; `None` is zero, and the first one is never `None`.
Series: TypeAlias = tuple[Any, ...]
SeriesRule: TypeAlias = Callable[
    [core.JaxprEqn, Sequence[Series], int], Sequence[Series]
]

_SERIES_RULES: dict[core.Primitive, SeriesRule] = {}


def _expands(*given: core.Primitive) -> Callable[[SeriesRule], SeriesRule]:
    """Register the rule of these primitives, as a decorator."""

    def register(rule: SeriesRule) -> SeriesRule:
        _SERIES_RULES.update(dict.fromkeys(given, rule))
        return rule

    return register


def taylor(
    function: Callable[[PyTree], PyTree],
    center: PyTree,
    direction: PyTree,
    order: int,
) -> PyTree:
    """The Taylor polynomial of a function around `center`, at `center + direction`.

    Leaves that are not floating-point or complex stay where they are.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(center)
    steps = zip(jax.tree.leaves(center), jax.tree.leaves(direction), strict=True)
    inputs = [
        (x, step, *(None,) * order)[: order + 1]
        if _moves(x)
        else _constant_series(x, order)
        for x, step in steps
    ]
    outputs = _on_series(*jaxpr_and_consts(closed), inputs, order)
    return jax.tree.unflatten(jax.tree.structure(shape), map(_sum_of_products, outputs))


def _moves(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


def _constant_series(x: Any, order: int) -> Series:
    return (x, *(None,) * order)


def _is_constant(series: Series) -> bool:
    return all(term is None for term in series[1:])


def _with_zeros(series: Series) -> Series:
    """Write out the zeros: in loops and branches the form of a series must not vary."""
    first, *rest = series
    if not _moves(first):
        return series
    return (first, *(jnp.zeros_like(first) if term is None else term for term in rest))


def _on_series(
    jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Series], order: int
) -> list[Series]:
    """Run a program on series."""
    constant = functools.partial(_constant_series, order=order)
    env = Environment(jaxpr, list(map(constant, consts)), inputs)
    for eqn in live(jaxpr):
        args = env.read(eqn.invars, constant)
        if all(map(_is_constant, args)):
            outputs = list(map(constant, bind(eqn, *(a[0] for a in args))))
        else:
            rule = _SERIES_RULES.get(eqn.primitive, _by_derivative)
            outputs = rule(eqn, args, order)
        env.write(eqn.outvars, outputs)
    return env.read(jaxpr.outvars, constant)


def _by_derivative(
    eqn: core.JaxprEqn, args: Sequence[Series], order: int
) -> list[Series]:
    r"""Any equation with a derivative: $k\, y_k = (\partial g(x)\, x')_{k-1}$."""
    first = [a[0] for a in args]
    outputs = bind(eqn, *first)
    moved = [i for i, y in enumerate(outputs) if _moves(y)]
    moving = [i for i, a in enumerate(args) if not _is_constant(a)]
    if not order or not moved:
        return [_constant_series(y, order) for y in outputs]

    def derivative(first: list[Any], tangents: list[Any]) -> list[Any]:
        def moved_outputs(*values: Any) -> list[Any]:
            replaced = dict(zip(moving, values, strict=True))
            found = bind(eqn, *(replaced.get(i, x) for i, x in enumerate(first)))
            return [found[i] for i in moved]

        primals = [first[i] for i in moving]
        if eqn.primitive is primitives.custom_vjp_call_p:
            return _transposed_pullback(moved_outputs, primals, tangents)
        return jax.jvp(moved_outputs, primals, tangents)[1]

    closed = jax.make_jaxpr(derivative)(first, [first[i] for i in moving])
    jaxpr, consts = jaxpr_and_consts(closed)
    atoms = [*jaxpr.outvars, *(atom for e in live(jaxpr) for atom in e.invars)]
    if not any(jaxpr.invars[i] is atom for i in moving for atom in atoms):
        terms = _each_term(closed, first, [args[i] for i in moving])
    else:
        inputs = [a[:order] for a in args] + [
            _derivative_series(args[i]) for i in moving
        ]
        terms = [
            _antiderivative(s) for s in _on_series(jaxpr, consts, inputs, order - 1)
        ]
    found = dict(zip(moved, terms, strict=True))
    return [(y, *found.get(i, (None,) * order)) for i, y in enumerate(outputs)]


def _each_term(
    closed: Any, first: list[Any], moving: list[Series]
) -> list[Sequence[Any]]:
    """Apply a linear function to each of the higher coefficients alone."""
    program = core.jaxpr_as_fun(closed)
    columns = []
    for terms in list(zip(*moving, strict=True))[1:]:
        if all(term is None for term in terms):
            columns.append(None)
            continue
        filled = [
            jnp.zeros_like(s[0]) if term is None else term
            for s, term in zip(moving, terms, strict=True)
        ]
        columns.append(program(*first, *filled))
    count = len(closed.out_avals)
    return [[None if c is None else c[i] for c in columns] for i in range(count)]


def _transposed_pullback(
    function: Callable, primals: list[Any], tangents: list[Any]
) -> list[Any]:
    """The derivative along `tangents`, where only the reverse one is defined."""
    outputs, pullback = jax.vjp(function, *primals)
    return jax.linear_transpose(pullback, outputs)(tuple(tangents))[0]


def _derivative_series(series: Series) -> Series:
    """The derivative of a series; its first term is written out even if it is zero."""
    terms = [None if s is None else k * s for k, s in enumerate(series)][1:]
    if terms and terms[0] is None:
        terms[0] = jnp.zeros_like(series[0])
    return tuple(terms)


def _antiderivative(series: Series) -> Series:
    """The terms of a series from the first on, given its derivative."""
    return tuple(None if s is None else s / (k + 1) for k, s in enumerate(series))


def _sum_of_products(terms: Sequence[Any]) -> Any:
    found = [term for term in terms if term is not None]
    return functools.reduce(jnp.add, found) if found else None


@_expands(lax.mul_p, lax.dot_general_p, lax.conv_general_dilated_p)
def _bilinear(eqn: core.JaxprEqn, args: Sequence[Series], order: int) -> list[Series]:
    r"""A bilinear equation: $y_k = \sum_i g(a_i, b_{k-i})$."""

    def at(a: Any, b: Any) -> Any:
        if a is None or b is None:
            return None
        return eqn.primitive.bind(a, b, **eqn.params)

    a, b = args
    return [
        tuple(
            _sum_of_products([at(a[i], b[k - i]) for i in range(k + 1)])
            for k in range(order + 1)
        )
    ]


@_expands(lax.div_p)
def _quotient(eqn: core.JaxprEqn, args: Sequence[Series], order: int) -> list[Series]:
    r"""$y_k = (a_k - \sum_{i<k} y_i b_{k-i}) / b_0$."""
    a, b = args
    y: list[Any] = []
    for k in range(order + 1):
        products = [
            y_i * b[k - i]
            for i, y_i in enumerate(y)
            if y_i is not None and b[k - i] is not None
        ]
        total = _sum_of_products([a[k], *(-product for product in products)])
        y.append(None if total is None else total / b[0])
    return [tuple(y)]


@_expands(lax.pow_p)
def _power(eqn: core.JaxprEqn, args: Sequence[Series], order: int) -> list[Series]:
    r"""$x^p$ for a constant exponent; where it moves, $e^{p \log x}$."""
    x, p = args
    if _is_constant(p):
        return _by_derivative(eqn, args, order)
    closed = jax.make_jaxpr(lambda x, p: jnp.exp(p * jnp.log(x)))(x[0], p[0])
    return _on_series(*jaxpr_and_consts(closed), args, order)


@_expands(primitives.jit_p, primitives.closed_call_p)
def _inline(eqn: core.JaxprEqn, args: Sequence[Series], order: int) -> list[Series]:
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return _on_series(*jaxpr_and_consts(inner), args, order)


@_expands(primitives.remat_p)
def _checkpoint(eqn: core.JaxprEqn, args: Sequence[Series], order: int) -> list[Series]:
    """The checkpointed function is recomputed in the backward pass here, too."""
    options = {name: eqn.params[name] for name in ("policy", "prevent_cse")}
    run = jax.checkpoint(lambda args: _inline(eqn, args, order), **options)
    return run(list(args))


@_expands(lax.scan_p)
def _scan(eqn: core.JaxprEqn, args: Sequence[Series], order: int) -> list[Series]:
    params = eqn.params
    n_consts, n_carry = scan_sizes(eqn)
    consts, xs = args[:n_consts], list(args[n_consts + n_carry :])
    carry = list(map(_with_zeros, args[n_consts : n_consts + n_carry]))

    def step(carry: list[Series], xs: list[Series]) -> tuple[list, list]:
        outputs = _on_series(
            *jaxpr_and_consts(params["jaxpr"]), [*consts, *carry, *xs], order
        )
        return list(map(_with_zeros, outputs[:n_carry])), outputs[n_carry:]

    options = {name: params[name] for name in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(step, carry, xs, **options)
    return [*carry, *ys]


@_expands(lax.while_p)
def _while(eqn: core.JaxprEqn, args: Sequence[Series], order: int) -> list[Series]:
    params = eqn.params
    n_cond, n_body = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts = args[:n_cond], args[n_cond : n_cond + n_body]
    carry = list(map(_with_zeros, args[n_cond + n_body :]))
    condition = core.jaxpr_as_fun(params["cond_jaxpr"])

    def body(carry: list[Series]) -> list[Series]:
        inner = jaxpr_and_consts(params["body_jaxpr"])
        return list(map(_with_zeros, _on_series(*inner, [*body_consts, *carry], order)))

    def proceed(carry: list[Series]) -> Any:
        return condition(*(s[0] for s in (*cond_consts, *carry)))[0]

    return lax.while_loop(proceed, body, carry)


@_expands(lax.cond_p)
def _cond(eqn: core.JaxprEqn, args: Sequence[Series], order: int) -> list[Series]:
    index, *operands = args

    def branch(inner: Any) -> Callable:
        return lambda *operands: list(
            map(_with_zeros, _on_series(*jaxpr_and_consts(inner), operands, order))
        )

    branches = list(map(branch, eqn.params["branches"]))
    return lax.switch(index[0], branches, *operands)
