r"""With few examples networks generalise as infinite ones, then their variance shows.

The prediction of a lazy network is kernel regression with its own NTK, which differs
from network to network. With more examples the error of the limit falls and the part
that is due to the network's initialisation takes over, at a number of examples that
grows with the width. The mean over an ensemble has not that part. A network that learns
features, trained to the end, predicts as regression with the NTK that it has then does.

**Setting.** One hidden layer of `Relu` of width $N$, inputs on a sphere in 10
dimensions, a target of degree two, up to 256 examples; networks of 16, 64 and 256
units, 8 of each. By which power of the width the number of examples grows is
measured; that it grows is asserted.
"""

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
    COLOURS,
    GREY,
    Finding,
    above,
    below,
    descend,
    experiment,
    near,
    on_sphere,
    panels,
    show,
    slope,
    title,
)


CLAIM = "Variance of initialisation limits networks from a number of examples on."
SOURCE = "Atanasov, Bordelon, Sainathan, Pehlevan 2023, arXiv:2212.12147"
DIM, TEST, SEEDS, SETS = 10, 300, 8, 4
SIZES, WIDTHS = (8, 16, 32, 64, 128, 256), (16, 64, 256)


class Result(eqx.Module):
    """Errors of networks, ensembles and the limit; a trained network and kernels."""

    examples: Float[Array, " sizes"]
    widths: Float[Array, " widths"]
    single: Float[Array, "widths sizes"]
    ensemble: Float[Array, "widths sizes"]
    limit: Float[Array, " sizes"]
    trained: Float[Array, " test"]
    by_first_kernel: Float[Array, " test"]
    by_last_kernel: Float[Array, " test"]
    train_error: Float[Array, ""]


def network(width) -> nn.Sequential:
    hidden = nn.Linear(width, weight_std=2**0.5)
    return nn.Sequential([hidden, nn.Relu(), nn.Linear(1)])


def data() -> tuple[Float[Array, "points 10"], Float[Array, " points"]]:
    x = on_sphere(jr.key(0), SIZES[-1] + TEST, DIM)
    return x, (x[:, 0] * x[:, 1] + (x[:, 2] ** 2 - 1) / 2)


@eqx.filter_jit
def kernels(width) -> Float[Array, "seeds n n"]:
    x, _ = data()
    one = lambda key: eqt.empirical_ntk(network(width).init((DIM,), key=key), x)
    return jax.lax.map(one, jr.split(jr.key(1), SEEDS))


def predictions(kernel, y, some) -> Float[np.ndarray, " test"]:
    train = kernel[np.ix_(some, some)]
    ridge = 1e-8 * np.trace(train) / len(some) * np.eye(len(some))
    return kernel[SIZES[-1] :, some] @ np.linalg.solve(train + ridge, y[some])


def errors(of_networks, y) -> tuple[np.ndarray, np.ndarray]:
    """Mean errors of each kernel's prediction, and of their mean, by size."""
    single, ensemble = np.zeros((2, len(SIZES), SETS))
    for j in range(SETS):
        order = np.random.default_rng(j).permutation(SIZES[-1])
        for i, size in enumerate(SIZES):
            found = np.stack([predictions(k, y, order[:size]) for k in of_networks])
            off = found - y[SIZES[-1] :]
            single[i, j] = np.mean(off**2)
            ensemble[i, j] = np.mean(off.mean(0) ** 2)
    return single.mean(1), ensemble.mean(1)


@eqx.filter_jit
def train(width, count) -> tuple[Array, ...]:
    """A network that starts from zero, its outputs, and its kernels."""
    x, y = data()
    model = network(width).init((DIM,), key=jr.key(2))
    params, rest = eqx.partition(model, eqx.is_array)
    # Less its first outputs, and with outputs so large that features are learned.
    start = jax.vmap(model)(x)[:, 0]
    outputs = lambda p: jax.vmap(eqx.combine(p, rest))(x)[:, 0] - start
    loss = lambda p: jnp.mean((outputs(p)[:count] - y[:count]) ** 2) / 2
    last, _ = descend(loss, params, 0.2, 4000, lambda _: None)
    first, final = (eqt.empirical_ntk(eqx.combine(p, rest), x) for p in (params, last))
    return outputs(last), first, final


@experiment
def run(size: str = "small") -> Result:
    """Regress with kernels of networks, and train one; both sizes are one."""
    x, y = (np.asarray(part) for part in data())
    limit, _ = errors(np.asarray(eqt.ntk(network(1), x))[None], y)
    found = [errors(np.asarray(kernels(n)), y) for n in WIDTHS]
    count = 64
    outputs, first, last = (np.asarray(part) for part in train(64, count))
    rest = slice(SIZES[-1], None)
    some = np.arange(count)
    return Result(
        examples=np.array(SIZES, float),
        widths=np.array(WIDTHS, float),
        single=np.stack([single for single, _ in found]),
        ensemble=np.stack([ensemble for _, ensemble in found]),
        limit=limit,
        trained=outputs[rest],
        by_first_kernel=predictions(first, y, some),
        by_last_kernel=predictions(last, y, some),
        train_error=np.mean((outputs[:count] - y[:count]) ** 2),
    )


def onsets(r: Result) -> list[float]:
    """From how many examples on half of the error is variance, by width."""
    found = []
    for part in 1 - r.ensemble / r.single:
        i = int(np.argmax(part > 0.5))
        assert i > 0, "The variance is half of the error at no number of examples."
        steps = np.log(r.examples[i - 1 : i + 1])
        found.append(np.exp(np.interp(0.5, part[i - 1 : i + 1], steps)))
    return found


def check(result: Result) -> list[Finding]:
    """Assert when variance takes over, and which kernel predicts the network."""
    r = result
    rms = lambda kernel: np.sqrt(np.mean((kernel - r.trained) ** 2))
    rate = slope(r.widths, onsets(r))
    return [
        # It grows, and slower than the width; eight networks know it to ten per cent.
        above("onset of variance, exponent of the width", rate, 0.25),
        below("onset of variance, exponent of the width", rate, 1),
        above(
            "error over that of the ensemble, most examples",
            (r.single / r.ensemble)[:, -1],
            2,
        ),
        # With 8 examples networks do as the limit does.
        near(
            "error over the limit's, 8 examples, width 256",
            r.single[-1, 0] / r.limit[0],
            1,
            atol=0.1,
        ),
        below("training error of the network", r.train_error, 0.01),
        below(
            "distance to regression, kernel of the end over that of the start",
            rms(r.by_last_kernel) / rms(r.by_first_kernel),
            0.7,
        ),
    ]


@panels
def draw(result: Result, left: Axes, middle: Axes, right: Axes) -> None:
    """Errors, the part that is variance, and predictions of a trained network."""
    r = result
    left.plot(r.examples, r.limit, "k--", label="limit")
    for n, single, ensemble, colour in zip(
        r.widths, r.single, r.ensemble, COLOURS, strict=False
    ):
        left.plot(r.examples, single, "o-", color=colour, label=f"width {n:.0f}")
        left.plot(r.examples, ensemble, ":", color=colour)
        middle.plot(r.examples, 1 - ensemble / single, "o-", label=f"width {n:.0f}")
    right.plot(
        r.trained, r.by_first_kernel, ".", label="kernel of the start", color=GREY
    )
    right.plot(r.trained, r.by_last_kernel, ".", label="kernel of the end")
    right.axline((0, 0), slope=1, color=GREY, linewidth=1, zorder=0)
    title(left, "Errors (dotted: ensembles)", "examples", "squared error", log="xy")
    title(middle, "Part that is variance", "examples", "", log="x")
    title(right, "A network that was trained", "its outputs", "by regression")
    for axes in (left, middle, right):
        axes.legend()


if __name__ == "__main__":
    show(globals())
