r"""What an infinite ensemble knows of its data has closed forms, at all times.

Let parameters of a linearised network start from $\mathcal{N}(0, I)$ and follow
gradient flow. With eigenpairs $(\lambda_i, u_i)$ of the NTK of the training set, the
information of the parameters is

$$\mathrm{KL}(p(\theta_t | D) \| p(\theta_0)) = \frac{1}{2} \sum_i (e^{-2 \lambda_i t} -
1 + 2 \lambda_i t) + \frac{1}{2} \sum_i \frac{(1 - e^{-\lambda_i t})^2}{\lambda_i} (u_i
\cdot Y)^2.$$

It grows for ever, as does the information $I(Z; D)$ that an output $Z$ has of the
training targets, while what $Z$ says of a new target has a maximum: from there on the
ensemble overfits.

**Setting.** A network of 256 parameters, 6-16-8-1 with `Erf`, linearised at one draw;
40 examples of $y = x_1 + 0.3 \varepsilon$. $I(Z; D)$ is that of jointly Gaussian $Z$
and $Y$, an average over 400 test inputs; $I(Y; Z)$ is bounded from below by
$\frac{1}{2} \log (\operatorname{Var} y / \mathbb{E} |z - y|^2)$. The source has wider
networks, and MNIST.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.linalg
import scipy.special
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from eqtangents import nn, theory
from reproductions._laboratory import (
    GREY,
    ORANGE,
    Finding,
    above,
    below,
    experiment,
    near,
    panels,
    show,
    title,
)


CLAIM = "Information measures of infinite ensembles are tractable along training."
SOURCE = "Shwartz-Ziv, Alemi 2020, arXiv:1911.09189"
SETTINGS = {"time": (0.01, 1.0), "noise": (0.2, 0.5)}
N, N_TEST, DIM = 40, 400, 6


class Result(eqx.Module):
    """Information by closed forms, and by dense Gaussians."""

    times: Float[Array, " times"]
    parameters: Float[Array, " times"]
    outputs: Float[Array, " times"]  # I(Z; D)
    targets: Float[Array, " times"]  # a bound of I(Y; Z)
    error: Float[Array, " times"]
    closed: Float[Array, " some"]
    dense: Float[Array, " some"]
    late_slope: Float[Array, ""]
    trace: Float[Array, ""]
    noise: Float[Array, ""]


def features(x) -> Float[Array, "n parameters"]:
    """Gradients of one network in its parameters: rows of its Jacobian."""
    layer = lambda n, **options: nn.Linear(n, **options)
    hidden = [layer(16, bias_std=0.2), nn.Erf(), layer(8, bias_std=0.2), nn.Erf()]
    model = nn.Sequential([*hidden, nn.Linear(1)]).init((DIM,), key=jr.key(0))
    leaves, rest = eqx.partition(model, eqx.is_array)
    flat, restore = ravel_pytree(leaves)
    output = lambda flat, x: eqx.combine(restore(flat), rest)(x)[0]
    return jax.vmap(jax.grad(output), (None, 0))(flat, x)


def dense_kl(jacobian, y, time: float) -> float:
    """The divergence of Gaussians over all parameters, without any eigenvector."""
    generator, p = jacobian.T @ jacobian, jacobian.shape[1]
    covariance = scipy.linalg.expm(-2 * time * generator)
    ntk = jacobian @ jacobian.T
    learned = np.eye(len(y)) - scipy.linalg.expm(-time * ntk)
    mean = jacobian.T @ np.linalg.solve(ntk, learned @ y)
    _, log_determinant = np.linalg.slogdet(covariance)
    return 0.5 * (np.trace(covariance) - p + mean @ mean - log_determinant)


@experiment
def run(size: str = "small", *, time: float = 0.3, noise: float = 0.3) -> Result:
    """Follow an ensemble along training; both sizes are one."""
    key_x, key_y = jr.split(jr.key(1))
    x = jr.normal(key_x, (N + N_TEST, DIM))
    y = x[:, 0] + noise * jr.normal(key_y, (N + N_TEST,))
    j, j_test = jnp.split(eqx.filter_jit(features)(x), [N])
    ntk, y, y_test = j @ j.T, y[:N], y[N:]
    flow = theory.ParameterFlow(ntk, y[:, None])
    times = jnp.geomspace(1e-2, 1e3, 61)
    prior = jnp.outer(x[:N, 0], x[:N, 0]) + noise**2 * jnp.eye(N)
    values, vectors = jnp.linalg.eigh(ntk)

    def at(t) -> tuple[Array, Array]:
        left = jnp.exp(-values * t)
        weights = (j_test @ j.T @ vectors) * ((1 - left) / values)[None] @ vectors.T
        # What was not learned of the start is the variance that is left.
        variance = jnp.sum((j_test - weights @ j) ** 2, 1)
        known = jnp.sum((weights @ prior) * weights, 1)
        error = jnp.mean((weights @ y - y_test) ** 2 + variance)
        return 0.5 * jnp.mean(jnp.log1p(known / variance)), error

    outputs, error = eqx.filter_jit(jax.vmap(at))(times)
    some, late = np.array([0.01, 0.1, 1.0, time]), 1e6
    return Result(
        times=times,
        parameters=flow.information(times),
        outputs=outputs,
        targets=0.5 * jnp.log(jnp.var(y_test) / error),
        error=error,
        closed=flow.information(jnp.asarray(some)),
        dense=np.array([dense_kl(*map(np.asarray, (j, y)), t) for t in some]),
        late_slope=flow.information(2 * late) / late - flow.information(late) / late,
        trace=jnp.trace(ntk),
        noise=jnp.asarray(noise),
    )


def check(result: Result) -> list[Finding]:
    """Assert the closed form, its slope, and what is bounded."""
    r = result
    of_input = 0.5 * np.log(1 + 1 / r.noise**2)  # I(X; Y) of y = x + noise
    best = np.argmax(r.targets)
    return [
        # The determinant of the dense covariance loses digits as time goes on.
        near("KL, closed and dense", r.closed, r.dense, rtol=1e-8),
        near("slope of the KL at late times", r.late_slope, r.trace, rtol=1e-9),
        above("growth of KL, each step of time", np.diff(r.parameters), 0),
        # Up to rounding: it saturates.
        above("growth of I(Z; D), each step of time", np.diff(r.outputs), -1e-12),
        below("bound of I(Y; Z) over I(X; Y)", r.targets.max() / of_input, 1),
        above("I(Y; Z), best over that at the end", r.targets[best] - r.targets[-1], 0),
    ]


@panels
def draw(result: Result, left: Axes, right: Axes) -> None:
    """Information of parameters and outputs, and the error."""
    r = result
    left.plot(r.times, r.parameters, label=r"parameters, KL")
    left.plot(
        r.times, r.trace * r.times, ":", color=GREY, label=r"$t\, \mathrm{tr}\, \Theta$"
    )
    right.plot(r.times, r.outputs, label="$I(Z; D)$")
    right.plot(r.times, r.targets, label="$I(Y; Z)$, bound")
    right.plot(r.times, r.error, label="error $E|z - y|^2$", color=GREY, linestyle="--")
    best = np.argmax(r.targets)
    right.plot(r.times[best], r.targets[best], "o", color=ORANGE)
    title(left, "What parameters know", "time", "nats", log="xy")
    title(right, "What outputs know", "time", "nats, squared error", log="x")
    right.set_ylim(-0.5, None)
    left.legend()
    right.legend()


if __name__ == "__main__":
    show(globals())
