"""The nonlinearities of the reference as layers of ours, and their duals in NumPy.

The duals are written down from the list of formulas of the reference's specification,
and share nothing with those of the layers.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eqtangents import nn
from precision import is_double


def gauss(x):
    return jnp.exp(-0.5 * x * x)


def square(x):
    return x * x


@jax.custom_jvp
def elu(x):
    return jax.nn.elu(x)


# As the reference has it at zero, where one of its nodes is.
elu.defjvps(lambda t, _, x: t * jnp.where(x < 0, jnp.exp(x), 0.5 * (1 + jnp.sign(x))))

NAMED = {
    "gauss": gauss,
    "erf": jax.scipy.special.erf,
    "sin": jnp.sin,
    "square": square,
    "tanh": jnp.tanh,
    "elu": elu,
    "sigmoid": jax.nn.sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
}


def layers(elementwise: Callable, required: object) -> dict[str, Callable]:
    """What translates each of them, by `elementwise(make, **defaults)`."""
    return {
        "sigmoid_like": elementwise(nn.SigmoidLike),
        "gelu": elementwise(nn.Gelu, approximate=False),
        "sin": elementwise(nn.Sin, a=1.0, b=1.0, c=0.0),
        "cos": elementwise(nn.Cos, a=1.0, b=1.0, c=0.0),
        "rbf": elementwise(nn.Rbf, gamma=1.0),
        "gabor": elementwise(nn.Gabor),
        "gaussian": elementwise(nn.Gaussian, a=1.0, b=-1.0),
        "exp": elementwise(nn.Exp, a=1.0, b=1.0),
        "exp_normalized": elementwise(
            lambda gamma, shift, clip: nn.ExpNormalized(gamma, shift),
            gamma=1.0,
            shift=-1.0,
            clip=False,
        ),
        "hermite": elementwise(nn.Hermite, degree=required),
        "monomial": elementwise(nn.Monomial, degree=required),
        "rectified_monomial": elementwise(nn.RectifiedMonomial, degree=required),
        "polynomial": elementwise(
            lambda coef: nn.Polynomial(tuple(coef)), coef=required
        ),
        "sign": elementwise(nn.Sign),
        "elementwise": elementwise(
            lambda fn, derivative: _expanded(fn, is_double()),
            fn=required,
            derivative="auto",
        ),
        "elementwise_numerical": elementwise(
            lambda fn, deg, derivative: _numerical(fn, deg),
            fn=required,
            deg=required,
            derivative="auto",
        ),
    }


# At equal inputs a node of the quadrature falls on the kink, and rounding decides.
UNDECIDED = {("named__fc_nl_numerical_elu", "11")}

# `exp_normalized` has no finite function, without which the reference loses the widths
# that it weights branches by.
DEFECTS = {
    "random__096": "branches of unequal width with `exp_normalized`",
    "named__mask_polynomial_constant": "a constant stays where inputs are masked",
}

# Here expansions of functions with closed forms are not exact enough.
LARGE_VARIANCES = {"random__045", "random__072"}
CLOSED_FORMS = {
    "erf": {"op": "erf"},
    "gauss": {"op": "gaussian", "a": 1.0, "b": -0.5},
    "sin": {"op": "sin"},
}


def defect(net: Any) -> str | None:
    """Why the reference's kernel of a network with some nonlinearity is wrong."""
    if isinstance(net, dict):
        if net.get("op") == "hermite" and net["degree"] > 1:
            return "Hermite polynomials of inputs whose variance is not 1"
        net = list(net.values())
    if isinstance(net, list):
        return next(filter(None, map(defect, net)), None)
    return None


@functools.cache
def _expanded(name: str, double: bool) -> nn.Elementwise:
    """Made once in each precision, on which expansions depend."""
    return nn.Elementwise(NAMED[name])


@functools.cache
def _numerical(name: str, degree: int) -> nn.FromDual:
    """The reference's quadrature in two dimensions, which is far from exact."""
    value, derivative = (_Quadrature(name, degree, slope) for slope in (False, True))
    return nn.FromDual(value, derivative, fn=NAMED[name])


class _Quadrature:
    """`E f(u) f(v)` as a sum over `degree**2` nodes, or the same of the slope."""

    def __init__(self, name: str, degree: int, slope: bool):
        self.name, self.degree, self.slope = name, degree, slope

    def __call__(self, cov: Any, var1: Any, var2: Any) -> Any:
        fn = NAMED[self.name]
        if self.slope:
            fn = lambda x: jax.jvp(NAMED[self.name], (x,), (jnp.ones_like(x),))[1]
        safe = jnp.maximum(var1 / 2, 1e-30)
        rest = jnp.sqrt(jnp.maximum(2 * (var2 - cov * cov / (2 * safe)), 0))
        nodes, weights = np.polynomial.hermite.hermgauss(self.degree)
        y = jnp.asarray(nodes, cov.dtype).reshape(-1, *(1,) * cov.ndim)
        inner_weights = jnp.asarray(weights, cov.dtype).reshape(y.shape)

        def add(total: Any, node: Any) -> tuple[Any, None]:
            x, weight = node
            v = (cov / jnp.sqrt(safe) * x)[None] + rest[None] * y
            inner = jnp.sum(inner_weights * fn(v), 0)
            return total + weight * fn(jnp.sqrt(2 * var1) * x) * inner, None

        outer = tuple(jnp.asarray(a, cov.dtype) for a in (nodes, weights))
        return jax.lax.scan(add, jnp.zeros_like(cov), outer)[0] / np.pi


# Duals in NumPy: `(k, q1, q2) -> (E f f, E f' f')`.


def brute_force(layer: Any) -> Callable:
    """The dual of a layer."""
    if isinstance(layer, nn.FromDual):
        return _numerical_dual(layer.given)
    if isinstance(layer, nn.Elementwise):
        name = next(name for name, fn in NAMED.items() if fn is layer.fn)
        return {
            "gauss": lambda *q: _gaussian(*q, 1.0, -0.5),
            "erf": lambda *q: _erf(*q, 1.0, 1.0, 0.0),
            "sin": lambda *q: _sin(*q, 1.0, 1.0, 0.0),
            "square": lambda *q: _polynomial(*q, (0.0, 0.0, 1.0)),
        }[name]
    return {
        nn.SigmoidLike: lambda: lambda *q: _erf(*q, 0.5, 1 / 2.4020563531719796, 0.5),
        nn.Gelu: lambda: _gelu,
        nn.Sin: lambda: lambda *q: _sin(*q, layer.a, layer.b, layer.c),
        nn.Cos: lambda: lambda *q: _sin(*q, layer.a, layer.b, layer.c + np.pi / 2),
        nn.Rbf: lambda: lambda *q: _rbf(*q, layer.gamma),
        nn.Gabor: lambda: _gabor,
        nn.Gaussian: lambda: lambda *q: _gaussian(*q, layer.a, layer.b),
        nn.Exp: lambda: lambda *q: _exp(*q, layer.a, layer.b),
        nn.ExpNormalized: lambda: (
            lambda *q: _exp_normalized(*q, layer.gamma, layer.shift)
        ),
        nn.Hermite: lambda: lambda *q: _polynomial(*q, _hermite(layer.degree)),
        nn.Monomial: lambda: lambda *q: _polynomial(*q, (0.0,) * layer.degree + (1.0,)),
        nn.Polynomial: lambda: lambda *q: _polynomial(*q, layer.coefficients),
        nn.RectifiedMonomial: lambda: lambda *q: _rectified(*q, layer.degree),
        nn.Sign: lambda: _sign,
    }[type(layer)]()


def _erf(k, q1, q2, a, b, c):
    product = (1 + 2 * b**2 * q1) * (1 + 2 * b**2 * q2)
    value = a**2 * 2 / np.pi * np.arcsin(2 * b**2 * k / np.sqrt(product)) + c**2
    return value, a**2 * b**2 * 4 / np.pi / np.sqrt(product - 4 * b**4 * k**2)


def _gelu(k, q1, q2):
    s, p = (1 + q1) * (1 + q2), q1 * q2
    d = np.sqrt(s - k**2)
    angle = np.arctan2(k, d)
    value = k / 4 + ((k**2 + p * d**2) / (s * d) + k * angle) / (2 * np.pi)
    slopes = k / (2 * np.pi * d) * (1 / d**2 + (1 - p) / s + 1)
    return value, 0.25 + angle / (2 * np.pi) + slopes


def _sin(k, q1, q2, a, b, c):
    mean = (q1 + q2) / 2
    plus = np.exp(b**2 * (k - mean))
    minus = np.cos(2 * c) * np.exp(-(b**2) * (k + mean))
    return a**2 / 2 * (plus - minus), a**2 * b**2 / 2 * (plus + minus)


def _rbf(k, q1, q2, gamma):
    value = np.exp(-gamma * (q1 + q2 - 2 * k))
    return value, 2 * gamma * value


def _gabor(k, q1, q2):
    p, s = q1 * q2, q1 + q2
    d = 4 * (p - k**2)
    e = 2 * s + d + 1
    low, high = np.exp(-(s + d + 2 * k) / (2 * e)), np.exp(2 * k / e)
    left, right = (
        1 + 2 * s + 4 * (k**2 + p) + sign * 4 * k * (d + 3 * s + 2) for sign in (-1, 1)
    )
    value = low * (high - 1) / (2 * np.sqrt(e))
    return value, low * (left + high * right) / (2 * e**2.5)


def _gaussian(k, q1, q2, a, b):
    d = (1 - 2 * b * q1) * (1 - 2 * b * q2) - 4 * b**2 * k**2
    return a**2 / np.sqrt(d), 4 * a**2 * b**2 * k / d**1.5


def _exp(k, q1, q2, a, b):
    value = a**2 * np.exp(b**2 * ((q1 + q2) / 2 + k))
    return value, b**2 * value


def _exp_normalized(k, q1, q2, gamma, shift):
    size = np.sqrt(np.maximum(q1 * q2, 1e-30))
    kernel = np.exp(gamma * (k / size + shift))
    return np.sqrt(q1 * q2) * kernel, gamma * kernel


def _hermite(degree):
    basis = np.zeros(degree + 1)
    basis[degree] = 1 / math.sqrt(math.factorial(degree))
    return np.polynomial.hermite_e.herme2poly(basis)


def _polynomial(k, q1, q2, coefficients):
    """By moments: `v = k / q1 * u + w` with `w` independent of `u`."""
    safe = np.where(q1 > 0, q1, 1)
    slope, rest = k / safe, np.maximum(q2 - k**2 / safe, 0)

    def moment(m, n):  # E u**m v**n
        total = 0.0
        for i in range(0, n + 1, 2):
            if (m + n - i) % 2 == 0:
                spread = _odd(i) * rest ** (i // 2) * math.comb(n, i)
                half = (m + n - i) // 2
                total = total + spread * slope ** (n - i) * _odd(2 * half) * q1**half
        return total + 0 * k

    c = [float(x) for x in coefficients]
    value, derivative = 0 * k, 0 * k
    for m, a in enumerate(c):
        for n, b in enumerate(c):
            value = value + a * b * moment(m, n)
            if m and n:
                derivative = derivative + a * b * m * n * moment(m - 1, n - 1)
    return value, derivative


def _odd(n):
    """`E z**n` for even `n`."""
    return math.prod(range(1, n, 2))


def _rectified(k, q1, q2, degree):
    size = np.sqrt(q1 * q2)
    cosine = np.clip(k / np.where(size > 0, size, 1), -1, 1)
    angle, sine = np.arccos(cosine), np.sqrt(1 - cosine**2)
    # Cho & Saul 2009, eq. 5 to 7, and the next.
    j = [
        np.pi - angle,
        sine + (np.pi - angle) * cosine,
        3 * sine * cosine + (np.pi - angle) * (1 + 2 * cosine**2),
        (4 + 11 * cosine**2) * sine + (np.pi - angle) * (9 * cosine + 6 * cosine**3),
    ]
    values = [size**n / (2 * np.pi) * j[n] for n in range(4)]
    derivative = degree**2 * values[degree - 1] if degree else 0 * k
    return values[degree], derivative


def _sign(k, q1, q2):
    size = np.sqrt(q1 * q2)
    cosine = np.clip(k / np.where(size > 0, size, 1), -1, 1)
    return 2 / np.pi * np.arcsin(cosine), 0 * k


def _numerical_dual(given):
    """The same sum, in NumPy."""
    name, degree = given.value.name, given.value.degree
    fn, slope = _NUMPY[name]
    x, w = np.polynomial.hermite.hermgauss(degree)

    def dual(k, q1, q2):
        results = []
        q1, q2 = np.broadcast_arrays(q1 + 0 * k, q2 + 0 * k)
        safe = np.maximum(q1 / 2, 1e-30)
        rest = np.sqrt(np.maximum(2 * (q2 - k**2 / (2 * safe)), 0))
        for f in (fn, slope):
            total = 0 * k
            for x1, w1 in zip(x, w, strict=True):
                inner = 0 * k
                for x2, w2 in zip(x, w, strict=True):
                    inner = inner + w2 * f(k / np.sqrt(safe) * x1 + rest * x2)
                total = total + w1 * f(np.sqrt(2 * q1) * x1) * inner
            results.append(total / np.pi)
        return tuple(results)

    return dual


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


_NUMPY = {
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x)),
    "softplus": (lambda x: np.logaddexp(0, x), _sigmoid),
    "silu": (
        lambda x: x * _sigmoid(x),
        lambda x: _sigmoid(x) * (1 + x * _sigmoid(-x)),
    ),
    "elu": (
        lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)), 0.5 * (1 + np.sign(x))),
    ),
}
