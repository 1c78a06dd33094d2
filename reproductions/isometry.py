r"""Delta-orthogonal convolutions are isometric at any depth, Gaussian ones forget.

A convolution whose window is zero but in its middle, where there is an orthogonal
matrix, keeps all norms, and so do 200 of them. The singular values of 200 Gaussian ones
spread over many orders of magnitude. In nonlinear networks with Gaussian weights, waves
over positions fade as $(\chi \lambda_k)^l$, with the window's Fourier transform
$\lambda_k$ and one $\chi$ for all of them.

**Setting.** Circular convolutions in one dimension, windows of 3, 8 positions, 16
channels, 200 linear layers; `Erf`, with waves of 1e-4 of the variance. The source
trains 10,000 layers on images.
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
from eqtangents import mean_field, nn
from reproductions._laboratory import (
    GREY,
    Finding,
    below,
    experiment,
    near,
    panels,
    show,
    title,
)


CLAIM = "Delta-orthogonal convolutions are isometric; waves over positions fade by χλ."
SOURCE = "Xiao, Bahri, Sohl-Dickstein, Schoenholz, Pennington 2018, arXiv:1806.05393"
SETTINGS = {"weight_std": (0.8, 2.5), "bias_std": (0.2, 1.0)}
POSITIONS, CHANNELS, DEPTH, WINDOW, LAYERS, WAVE = 8, 16, 200, 3, 6, 1e-4


class Result(eqx.Module):
    """Singular values of deep networks, and waves by depth."""

    gaussian: Float[Array, " values"]
    orthogonal: Float[Array, " values"]
    waves: Float[Array, "layers modes"]  # of the variance, by frequency
    modes: Float[Array, " modes"]
    chi: Float[Array, ""]
    transform: Float[Array, " modes"]


@functools.cache  # They are the same for all settings.
def singular_values() -> tuple[np.ndarray, np.ndarray]:
    conv = nn.Conv(CHANNELS, WINDOW, padding="CIRCULAR")
    size = CHANNELS * POSITIONS
    net = nn.Repeat(conv, DEPTH).init((CHANNELS, POSITIONS), key=jr.key(0))
    matrices = jr.orthogonal(jr.key(1), CHANNELS, (DEPTH,))
    # The layer divides by the root of its fan-in.
    weights = jnp.zeros((DEPTH, CHANNELS, CHANNELS, WINDOW))
    weights = weights.at[..., WINDOW // 2].set(matrices * (CHANNELS * WINDOW) ** 0.5)
    delta = eqx.tree_at(lambda net: net.copies.weight, net, weights)

    @eqx.filter_jit
    def values(net) -> Float[Array, " values"]:
        inputs = jnp.eye(size).reshape(size, CHANNELS, POSITIONS)
        jacobian = jax.vmap(net)(inputs).reshape(size, size)
        return jnp.linalg.svd(jacobian, compute_uv=False)

    return tuple(np.asarray(values(one)) for one in (net, delta))


@eqx.filter_jit
def variances(weight_std, bias_std, q) -> Float[Array, "layers positions"]:
    """Of all layers, from a variance that is a pulse above the fixed point."""
    conv = nn.Conv(
        1, WINDOW, padding="CIRCULAR", weight_std=weight_std, bias_std=bias_std
    )
    pulse = q * (1 + WAVE * (jnp.arange(POSITIONS) == 0))
    x = jnp.sqrt(pulse)[None, None]

    def after(depth) -> Float[Array, " positions"]:
        repeated = nn.Repeat(nn.Sequential([nn.Erf(), conv]), LAYERS, depth=depth)
        return eqt.nngp_diagonal(nn.Sequential([nn.Conv(1, 1), repeated]), x)[0]

    return jax.vmap(after)(jnp.arange(LAYERS + 1))


@eqx.filter_jit
def theory_of(weight_std, bias_std) -> tuple[Array, Array, Array]:
    conv = nn.Conv(
        1, WINDOW, padding="CIRCULAR", weight_std=weight_std, bias_std=bias_std
    )
    one = mean_field.CorrelationMap(nn.Sequential([nn.Erf(), conv]), (POSITIONS,))
    end = one.fixed_point()
    return mean_field.spatial_modes(one).variance, end.chi_q, end.q


@experiment
def run(
    size: str = "small", *, weight_std: float = 1.3, bias_std: float = 0.3
) -> Result:
    """Multiply layers, and follow waves; both sizes are one."""
    stds = jnp.asarray(weight_std), jnp.asarray(bias_std)
    modes, chi, q = theory_of(*stds)
    gaussian, orthogonal = singular_values()
    # The constant part of the deviation is a mode as well.
    waves = jnp.abs(jnp.fft.fft(variances(*stds, q) - q))
    frequency = 2 * jnp.pi * jnp.arange(POSITIONS) / POSITIONS
    transform = jnp.abs(1 + 2 * jnp.cos(frequency)) / WINDOW
    return Result(gaussian, orthogonal, waves, modes, chi, transform)


def check(result: Result) -> list[Finding]:
    """Assert isometry, and the rates of waves."""
    r = result
    rates = r.waves[1:3] / r.waves[:2]
    return [
        near("orthogonal: singular values", r.orthogonal, 1, atol=1e-12),
        below("Gaussian: smallest over largest", r.gaussian[-1] / r.gaussian[0], 1e-6),
        near(
            "modes over those of the window",
            r.modes,
            r.chi * r.transform,
            rtol=1e-9,
            atol=1e-12,
        ),
        # The map is linear up to the size of the wave, 1e-4, times its curvature.
        near("decay of waves, a layer", rates, r.modes[None], rtol=1e-3, atol=2e-4),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Singular values, and waves by depth."""
    r = result
    left.plot(np.maximum(r.gaussian, 1e-30), label="Gaussian")
    left.plot(r.orthogonal, label="delta-orthogonal")
    for k in range(POSITIONS // 2 + 1):
        amplitudes = r.waves[:, k] / r.waves[0, k]
        # Two frequencies have one rate here: larger points lie below.
        size = 10 - 1.5 * k
        right.plot(amplitudes, "o", markersize=size, label=f"frequency {k}")
        right.plot(
            r.modes[k] ** np.arange(LAYERS + 1), color=GREY, linewidth=1, zorder=0
        )
    title(left, f"{DEPTH} linear layers", "rank", "singular value", log="y")
    title(right, "Waves over positions (lines: theory)", "layers", "amplitude", log="y")
    right.set_ylim(1e-7, 2)
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
