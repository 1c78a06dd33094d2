r"""Deep random networks come to behave like Gaussian processes, before data and after.

Given its hidden layers, a network of random last weights is a Gaussian process, of a
kernel that scatters around the limit by $n^{-1/2}$ at width $n$, and is off by $1 / n$
in the mean. Averaged over networks, distributions of outputs so differ from the limit
by $1 / n$, and the square of their maximum mean discrepancy falls as $n^{-2}$. As all
are mixtures of Gaussians, that square is in closed form for kernels that are drawn, and
no outputs need be. Networks that are weighted by the likelihood of some data have the
moments of the exact posterior, again up to $1 / n$.

**Setting.** Six inputs in four dimensions, three hidden layers of `Relu`, 1,000
networks of each width. The trace of a kernel has that of the limit as its mean at every
width: what goes along with it is taken off, which leaves a sixth of the noise at the
largest. The exponent is derived as above, and the closed forms stand for the source's
samples.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import nn, predict
from reproductions._laboratory import (
    GREY,
    Finding,
    experiment,
    extrapolated,
    near,
    panels,
    show,
    slope,
    slope_error,
    title,
)


CLAIM = "Wide deep networks behave like Gaussian processes, before data and after."
SOURCE = "Matthews, Rowland, Hron, Turner, Ghahramani 2018, arXiv:1804.11271"
INPUTS, DRAWS, WIDTHS, NOISE = 6, 1_000, (8, 16, 32, 64), 0.5
TARGETS = np.array([1.0, -1.0, 0.5])  # of the first inputs


class Result(eqx.Module):
    """Discrepancies by width, and moments of posteriors."""

    widths: Float[Array, " widths"]
    discrepancy: Float[Array, " widths"]  # squared
    errors: Float[Array, " widths"]  # their standard errors
    traces: Float[Array, "draws widths"]  # of kernels, over the limit's
    mean: Float[Array, " others"]
    variance: Float[Array, " others"]
    networks: Float[Array, "widths draws two others"]  # as `posteriors` has them


def network(width) -> nn.Sequential:
    hidden = lambda: nn.Linear(width, weight_std=2**0.5, bias_std=0.2)
    layers = [hidden(), nn.Relu(), hidden(), nn.Relu(), hidden(), nn.Relu()]
    return nn.Sequential([*layers, nn.Linear(1)])


@eqx.filter_jit
def kernels(width, x, key) -> Float[Array, "draws inputs inputs"]:
    """Covariances of outputs over last weights alone."""
    hidden = nn.Sequential(network(width).layers[:-1])

    def one(key) -> Float[Array, "inputs inputs"]:
        features = jax.vmap(hidden.init(x.shape[1:], key=key))(x)
        return features @ features.T / width

    return jax.lax.map(one, jr.split(key, DRAWS), batch_size=20)


def discrepancy(kernels: np.ndarray, limit: np.ndarray) -> tuple[float, float]:
    """The squared discrepancy of a mixture to the limit, and its standard error.

    Distances are seen through a squared exponential, of the length that is typical of
    two draws. Between mean embeddings of Gaussians it has an inner product in closed
    form: over their difference, which is Gaussian too.
    """
    square, count = 2 * np.trace(limit), len(kernels)
    eye = np.eye(len(limit))
    inner = lambda total: np.linalg.det(eye + total / square) ** -0.5
    of_limit, with_limit = inner(2 * limit), inner(kernels + limit)
    same = np.stack([inner(kernel + kernels) for kernel in kernels])
    products = same - with_limit[:, None] - with_limit[None] + of_limit
    # Along the embedding of a limit that is larger, embeddings move with the trace.
    more = 0.1
    along = (inner(kernels + (1 + more) * limit) - with_limit) / more
    along -= (inner((2 + more) * limit) - of_limit) / more
    differences = [inner((2 + more * i) * limit) for i in (0, 1, 2)]
    norm = np.diff(differences, 2)[0] / more**2
    trace = np.trace(kernels, axis1=1, axis2=2) / np.trace(limit) - 1
    cross = trace[:, None] * along[None]
    products += trace[:, None] * trace[None] * norm - cross - cross.T
    # Only of two different networks the product has the square as its mean.
    np.fill_diagonal(products, 0)
    means = products.sum(1) / (count - 1)
    variance = 4 * means.var() / count + 2 * np.mean(products**2) / count**2
    return means.mean(), variance**0.5


def posteriors(kernels, mean, variance) -> Float[np.ndarray, "draws two others"]:
    """What networks add to the mean and to the variance, weighted by likelihood."""
    n = len(TARGETS)
    seen = kernels[:, :n, :n] + NOISE**2 * np.eye(n)
    across = kernels[:, n:, :n]
    solved = np.linalg.solve(seen, np.broadcast_to(TARGETS[:, None], (len(seen), n, 1)))
    likelihood = np.exp(-(TARGETS @ solved[..., 0].T) / 2) / np.linalg.det(seen) ** 0.5
    shift = (across @ solved)[..., 0] - mean
    gain = np.sum(across * np.linalg.solve(seen, across.mT).mT, 2)
    spread = np.diagonal(kernels, axis1=1, axis2=2)[:, n:] - gain
    found = np.stack([shift, shift**2 + spread - variance], 1)
    return found * (likelihood / likelihood.mean())[:, None, None]


@experiment
def run(size: str = "small") -> Result:
    """Compare priors and posteriors; both sizes are one."""
    x, n = jr.normal(jr.key(0), (INPUTS, 4)), len(TARGETS)
    limit = np.asarray(eqt.nngp(network(1), x))
    keys = jr.split(jr.key(1), len(WIDTHS))
    samples = [
        np.asarray(kernels(w, x, key)) for w, key in zip(WIDTHS, keys, strict=True)
    ]
    found = [discrepancy(k, limit) for k in samples]
    exact = predict.GaussianProcess(
        jnp.asarray(limit[:n, :n]), jnp.asarray(TARGETS)[:, None], noise=NOISE**2
    )
    across = jnp.asarray(limit[n:, :n])
    mean = exact.mean(across)[:, 0]
    variance = exact.variance(across, jnp.diagonal(jnp.asarray(limit))[n:])
    return Result(
        np.array(WIDTHS, float),
        *np.array(found).T,
        np.trace(samples, axis1=2, axis2=3).T / np.trace(limit),
        mean,
        variance,
        np.stack(
            [posteriors(k, np.asarray(mean), np.asarray(variance)) for k in samples]
        ),
    )


def check(result: Result) -> list[Finding]:
    """Assert the rate of discrepancies, and the moments of posteriors."""
    r = result
    relative = r.errors / r.discrepancy
    # What two widths extrapolate to has no term of order 1 / n.
    off, errors = extrapolated(r.widths[-2:], *r.networks[-2:])
    of_traces = r.traces.std(0, ddof=1) / len(r.traces) ** 0.5
    return [
        # At each width, as the mean square of `Relu` is half of that of its inputs.
        near(
            "trace of kernels, off in standard errors",
            (r.traces.mean(0) - 1) / of_traces,
            0,
            atol=5,
        ),
        near(
            "squared discrepancy, exponent",
            slope(r.widths, r.discrepancy),
            -2,
            atol=5 * slope_error(r.widths, relative),
        ),
        near("posterior mean, off in standard errors", (off / errors)[0], 0, atol=5),
        near(
            "posterior variance, off in standard errors", (off / errors)[1], 0, atol=5
        ),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Discrepancies against width; posteriors of networks and of the process."""
    r = result
    left.errorbar(r.widths, r.discrepancy, 2 * r.errors, fmt="o-", label="networks")
    line = r.discrepancy[-1] * (r.widths / r.widths[-1]) ** -2.0
    left.plot(r.widths, line, ":", color=GREY, label="$n^{-2}$")
    points = 1 + len(TARGETS) + np.arange(len(r.mean))
    shift, change = r.networks.mean(1).swapaxes(0, 1)
    moments = {"process": (r.mean, r.variance)} | {
        f"networks of width {r.widths[i]:.0f}": (
            r.mean + shift[i],
            r.variance + change[i] - shift[i] ** 2,
        )
        for i in (0, -1)
    }
    for place, (name, (mean, variance)) in zip(
        (-0.1, 0, 0.1), moments.items(), strict=True
    ):
        bars = 2 * np.sqrt(variance)
        right.errorbar(points + place, mean, bars, fmt="o", label=name)
    name = "squared discrepancy"
    title(left, "Before data: distance to the process", "width $n$", name, log="xy")
    title(right, "After three observations", "input", "mean and two deviations")
    right.set_xticks(points)
    right.set_ylim(top=1.35 * right.get_ylim()[1])
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
