r"""The outputs of wide networks are Gaussian, but for a kurtosis of order 1/n.

With one hidden layer of $n$ units $h$ and Gaussian weights, an output is a mean of $n$
independent terms. Its variance is the NNGP kernel at every width, and its excess
kurtosis is $3 \operatorname{Var}(h^2) / n\, (\mathbb{E}\, h^2)^2$.

**Setting.** `Erf`, one input of three components, 20,000 networks of widths 2 to 16, of
32 outputs each. The kurtosis is computed by quadrature, without the library.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.special
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import nn
from reproductions._laboratory import (
    BLUE,
    GREY,
    Finding,
    experiment,
    near,
    panels,
    show,
    slope,
    title,
)


CLAIM = "Outputs become Gaussian: their kurtosis falls as 1/n."
SOURCE = (
    "Neal 1994, Priors for infinite networks; Matthews et al. 2018, arXiv:1804.11271"
)
SETTINGS = {"weight_std": (1.0, 3.0), "bias_std": (0.1, 1.0)}
INPUT, WIDTHS = np.array([1.0, 0.5, -1.0]), (2, 4, 8, 16)
DRAWS, OUTPUTS = 20_000, 32


class Result(eqx.Module):
    """Variances and kurtoses of outputs, and what they should be."""

    widths: Float[Array, " widths"]
    variance: Float[Array, " widths"]
    kurtosis: Float[Array, " widths"]
    nngp: Float[Array, ""]
    expected_kurtosis: Float[Array, " widths"]
    outputs: Float[Array, "widths draws"]  # some of them, in units of the limit


def network(width, weight_std, bias_std) -> nn.Sequential:
    hidden = nn.Linear(width, weight_std=weight_std, bias_std=bias_std)
    return nn.Sequential([hidden, nn.Erf(), nn.Linear(OUTPUTS)])


@eqx.filter_jit
def samples(width, key, weight_std, bias_std) -> Float[Array, " draws outputs"]:
    net, x = network(width, weight_std, bias_std), jnp.asarray(INPUT)
    output = lambda key: net.init((3,), key=key)(x)
    return jax.lax.map(output, jr.split(key, DRAWS), batch_size=1_000)


def moments_of_units(variance: float) -> tuple[float, float]:
    """Second and fourth moments of the units, by quadrature."""
    z, weights = np.polynomial.hermite_e.hermegauss(150)
    h = scipy.special.erf(np.sqrt(variance) * z)
    return tuple(weights @ h**k / weights.sum() for k in (2, 4))


@experiment
def run(
    size: str = "small", *, weight_std: float = 1.5, bias_std: float = 0.2
) -> Result:
    """Draw networks; both sizes are one."""
    stds = jnp.asarray(weight_std), jnp.asarray(bias_std)
    keys = jr.split(jr.key(0), len(WIDTHS))
    outputs = np.stack(
        [samples(n, k, *stds) for n, k in zip(WIDTHS, keys, strict=True)]
    )
    second, fourth = np.mean(outputs**2, (1, 2)), np.mean(outputs**4, (1, 2))
    square, power = moments_of_units(weight_std**2 * np.mean(INPUT**2) + bias_std**2)
    nngp = eqt.nngp(network(1, *stds), jnp.asarray(INPUT)[None])[0, 0]
    return Result(
        widths=np.array(WIDTHS, float),
        variance=second,
        kurtosis=fourth / second**2 - 3,
        nngp=nngp,
        expected_kurtosis=3 * (power / square**2 - 1) / np.array(WIDTHS),
        outputs=outputs[:, :, 0] / np.sqrt(nngp),
    )


def check(result: Result) -> list[Finding]:
    """Assert variance, kurtosis and its rate."""
    r = result
    # Networks share units between outputs: moments err by those of DRAWS * OUTPUTS
    # Gaussian numbers, and by that of the variance of mean squares over DRAWS networks.
    number, of_variance = DRAWS * OUTPUTS, (2 / DRAWS) ** 0.5
    errors = (24 / number) ** 0.5 + of_variance * r.expected_kurtosis
    squares = (r.expected_kurtosis / 3 / DRAWS + 2 / number) ** 0.5
    # An exponent over three octaves, where the last point is the least certain.
    uncertain = errors[-1] / r.expected_kurtosis[-1] / np.log(8)
    return [
        near(
            "variance over NNGP - 1, in standard errors",
            (r.variance / r.nngp - 1) / squares,
            0,
            atol=5,
        ),
        near(
            "kurtosis - expected, in standard errors",
            (r.kurtosis - r.expected_kurtosis) / errors,
            0,
            atol=5,
        ),
        near("kurtosis, exponent", slope(r.widths, r.kurtosis), -1, atol=5 * uncertain),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Histograms, and kurtosis against width."""
    r, bins = result, np.linspace(-4, 4, 61)
    middle = (bins[1:] + bins[:-1]) / 2
    for i, n in enumerate(r.widths):
        density, _ = np.histogram(r.outputs[i], bins, density=True)
        if i % 3 == 0:
            left.step(
                middle, density, where="mid", label=f"width {n:.0f}", linewidth=1.2
            )
        right.plot(n, r.kurtosis[i], "o", color=BLUE)
    left.plot(
        middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), "k--", label="Gaussian"
    )
    right.plot(
        r.widths, r.expected_kurtosis, color=GREY, label="expected, $\\propto 1 / n$"
    )
    title(
        left, "Outputs of one input", "output / limit's deviation", "density", log="y"
    )
    title(right, "Excess kurtosis", "width $n$", "", log="xy")
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
