r"""A dual activation is the power series of squared Hermite coefficients.

With $\phi(\sqrt{q}\, z) = \sum_k a_k(q)\, h_k(z)$ in normalised Hermite polynomials,
$\mathbb{E}\, \phi(u) \phi(v) = \sum_k a_k(q) a_k(q') c^k$ for Gaussians of variances
$q$, $q'$ and correlation $c$. Random networks of $r$ replicas of each unit have the
kernel of the limit up to an error of order $r^{-1/2}$.

**Setting.** Fourteen activations against their series, whose coefficients are computed
by quadrature, without the library; networks of two hidden layers of `Relu`, up to 512
replicas, 32 of each.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import nn
from reproductions._laboratory import (
    GREY,
    Finding,
    experiment,
    near,
    on_sphere,
    panels,
    show,
    slope,
    title,
)


CLAIM = "Duals are power series of squared Hermite coefficients."
SOURCE = "Daniely, Frostig, Singer 2016, arXiv:1602.05897"
SETTINGS = {"q1": (0.3, 1.5), "q2": (0.3, 1.5), "c": (-0.9, 0.9)}
CLOSED = {
    "Erf": nn.Erf(),
    "Sin": nn.Sin(),
    "Cos": nn.Cos(),
    "Rbf": nn.Rbf(),
    "Exp": nn.Exp(),
    "Gaussian": nn.Gaussian(),
    "Gabor": nn.Gabor(),
    "Gelu": nn.Gelu(),
    "Hermite(4)": nn.Hermite(4),
}
EXPANDED = {"Tanh": nn.Tanh(), "Silu": nn.Silu(), "Softplus": nn.Softplus()}
KINKED = {"Relu": nn.Relu(), "Abs": nn.Abs()}
# Enough where c = 0.9 and q = 1.5; Hermite functions of this degree live within 23.
TERMS, EDGE = 120, 30.0


class Result(eqx.Module):
    """Duals by the library and by their series; errors of finite networks."""

    correlations: Float[Array, " correlations"]
    duals: dict[str, Float[Array, " correlations"]]
    series: dict[str, Float[Array, " correlations"]]
    replicas: Float[Array, " widths"]
    error: Float[Array, " widths"]


def coefficients(function, q: float) -> Float[np.ndarray, " terms"]:
    """Hermite coefficients, by the rectangle rule, which is exact for smooth decay."""
    z = np.linspace(-EDGE, EDGE, 6001)
    values = np.asarray(function(jnp.asarray(np.sqrt(q) * z)))
    # Normalised Hermite functions, times the root of the Gaussian's density.
    last, one = np.zeros_like(z), np.exp(-(z**2) / 4) / (2 * np.pi) ** 0.25
    weight, found = one * (z[1] - z[0]), []
    for k in range(TERMS):
        found.append(np.sum(weight * values * one))
        last, one = one, (z * one - k**0.5 * last) / (k + 1) ** 0.5
    return np.array(found)


@eqx.filter_jit
def dual_values(layers, q1, q2, c) -> dict[str, Float[Array, " correlations"]]:
    k = c * jnp.sqrt(q1 * q2)
    q1, q2 = jnp.full_like(c, q1), jnp.full_like(c, q2)
    return {name: layer.dual(k, q1, q2)[0] for name, layer in layers.items()}


def network(width) -> nn.Sequential:
    hidden = lambda: nn.Linear(width, weight_std=2**0.5)
    return nn.Sequential([hidden(), nn.Relu(), hidden(), nn.Relu()])


@eqx.filter_jit
def finite_kernels(x, width) -> Float[Array, "seeds n n"]:
    def one(key) -> Float[Array, "n n"]:
        features = jax.vmap(network(width).init(x.shape[1:], key=key))(x)
        return features @ features.T / width

    return jax.lax.map(one, jr.split(jr.key(1), 32))


@functools.cache  # They are the same for all settings.
def errors(widths: tuple[int, ...]) -> Float[np.ndarray, " widths"]:
    x = on_sphere(jr.key(0), 10, 6)
    limit = eqt.nngp(network(1), x)
    off = [finite_kernels(x, n) - limit[None] for n in widths]
    return np.array([np.sqrt(np.mean(e**2)) for e in off])


@experiment
def run(
    size: str = "small", *, q1: float = 1.0, q2: float = 1.0, c: float = 0.5
) -> Result:
    """Evaluate duals at some correlations, and draw networks."""
    correlations = jnp.append(jnp.linspace(-0.9, 0.9, 37), c)
    layers = {**CLOSED, **EXPANDED, **KINKED}
    powers = correlations[:, None] ** jnp.arange(float(TERMS))[None]
    series = {
        name: powers @ (coefficients(f.function, q1) * coefficients(f.function, q2))
        for name, f in layers.items()
    }
    widths = (32, 128, 512) if size == "small" else (32, 64, 128, 256, 512, 1024)
    return Result(
        correlations=correlations,
        duals=dual_values(layers, jnp.asarray(q1), jnp.asarray(q2), correlations),
        series=series,
        replicas=np.array(widths, float),
        error=errors(widths),
    )


def check(result: Result) -> list[Finding]:
    """Assert the series of every activation, and the rate of replication."""
    r, findings = result, []
    # Closed forms err by rounding, expansions by their own tolerance, and the series of
    # functions with a kink by the quadrature of coefficients and 120 terms.
    for layers, tolerance in ((CLOSED, 1e-12), (EXPANDED, 1e-7), (KINKED, 1e-4)):
        for name in layers:
            pair = r.duals[name], r.series[name]
            scale = np.abs(r.series[name]).max()
            findings.append(near(f"dual of `{name}`", *pair, atol=tolerance * scale))
    rate = slope(r.replicas, r.error)
    # The error of 32 networks is known to 10 per cent or so: 0.04 over four octaves.
    return [*findings, near("replication, exponent", rate, -0.5, atol=0.1)]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Duals and their series; the error against replicas."""
    r, order = result, np.argsort(result.correlations)
    for name in ("Relu", "Erf", "Tanh", "Gelu", "Sin", "Hermite(4)"):
        one = np.interp(0.9, r.correlations[order], r.duals[name][order])
        (line,) = left.plot(
            r.correlations[order], r.duals[name][order] / one, label=name
        )
        points = r.correlations[::4], r.series[name][::4] / one
        left.plot(*points, "o", color=line.get_color(), markersize=4)
    right.plot(r.replicas, r.error, "o-", label="32 networks each")
    line = r.error[0] * (r.replicas / r.replicas[0]) ** -0.5
    right.plot(r.replicas, line, ":", color=GREY, label=r"$r^{-1/2}$")
    title(
        left,
        "Duals (lines) and series (points)",
        "correlation",
        "relative to that at 0.9",
    )
    title(right, "Random networks", "replicas $r$", "error of the kernel", log="xy")
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
