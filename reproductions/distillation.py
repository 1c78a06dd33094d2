r"""Ten learned images teach a kernel what ten digits cannot.

The loss of kernel regression is differentiable in the training inputs. Let one image a
class be the whole training set, and learn these images by gradient descent so that
regression with them is right on real digits. The kernel is the NTK of an infinitely
wide network.

**Setting.** 2,000 digits of MNIST to learn from, 2,000 others for the test; one hidden
layer of `Relu`; 150 steps of Adam on 200 digits each. The source distils CIFAR-10 and
others with convolutional networks.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float
from matplotlib.axes import Axes

import eqtangents as eqt
from eqtangents import nn, predict
from reproductions._laboratory import (
    Finding,
    above,
    below,
    experiment,
    mnist,
    panels,
    show,
)


CLAIM = "Ten learned images make kernel regression far better than ten real ones."
SOURCE = "Nguyen, Novak, Xiao, Lee 2021, arXiv:2107.13034 (and 2011.00050)"
STEPS, BATCH, RATE, CLASSES = 150, 200, 0.04, 10


class Result(eqx.Module):
    """Images, the loss, and accuracies on other digits."""

    real: Float[Array, "classes pixels"]
    learned: Float[Array, "classes pixels"]
    losses: Float[Array, " steps"]
    accuracy_real: Float[Array, ""]
    accuracy_learned: Float[Array, ""]
    accuracy_all: Float[Array, ""]


def predictions(support, y, x) -> Float[Array, "n classes"]:
    hidden = nn.Linear(1, weight_std=2**0.5, bias_std=0.1)
    net = nn.Sequential([hidden, nn.Relu(), nn.Linear(1)])
    posterior = predict.GaussianProcess(eqt.ntk(net, support), y, relative_noise=1e-6)
    return posterior.mean(eqt.ntk(net, x, support))


@eqx.filter_jit
def distil(support, y_support, x, y) -> tuple[Array, Array]:
    """The support after training, and the loss before each step."""
    optimiser = optax.adam(RATE)

    def loss(support, key) -> Float[Array, ""]:
        some = jr.choice(key, x.shape[0], (BATCH,), replace=False)
        return jnp.mean((predictions(support, y_support, x[some]) - y[some]) ** 2) / 2

    def step(carry, key) -> tuple[tuple, Array]:
        support, state = carry
        value, slope = jax.value_and_grad(loss)(support, key)
        updates, state = optimiser.update(slope, state)
        return (optax.apply_updates(support, updates), state), value

    start = support, optimiser.init(support)
    (support, _), losses = jax.lax.scan(step, start, jr.split(jr.key(0), STEPS))
    return support, losses


@experiment
def run(size: str = "small") -> Result:
    """Learn ten images, and classify other digits with them."""
    n = 2000 if size == "small" else 3000
    digits = mnist(n, 2000)
    x, x_test = jnp.asarray(digits.x), jnp.asarray(digits.x_test)
    y = predict.encode_labels(jnp.asarray(digits.labels), CLASSES)
    first = np.array([np.flatnonzero(digits.labels == k)[0] for k in range(CLASSES)])
    real, targets = x[first], y[first]
    learned, losses = distil(real, targets, x, y)

    def accuracy(support, y) -> Float[Array, ""]:
        right = (
            predict.decode_labels(predictions(support, y, x_test)) == digits.labels_test
        )
        return jnp.mean(right)

    return Result(
        real=real,
        learned=learned,
        losses=losses,
        accuracy_real=accuracy(real, targets),
        accuracy_learned=accuracy(learned, targets),
        accuracy_all=accuracy(x, y),
    )


def check(result: Result) -> list[Finding]:
    """Assert that learned images are far better."""
    r = result
    gain = 100 * (r.accuracy_learned - r.accuracy_real)
    return [
        # 2,000 test digits know an accuracy to about one point.
        above("accuracy, learned over real, points", gain, 30),
        below(
            "accuracy, learned over all digits, points",
            100 * (r.accuracy_learned - r.accuracy_all),
            0,
        ),
        below(
            "loss, last over first 10 steps",
            r.losses[-10:].mean() / r.losses[:10].mean(),
            0.7,
        ),
    ]


@panels
def draw(result: Result, axes: Axes) -> None:
    """Ten real images above ten learned ones."""
    r = result
    rows = [
        np.concatenate(
            list((k / np.abs(k).max(1, keepdims=True)).reshape(-1, 28, 28)), 1
        )
        for k in (r.real, r.learned)
    ]
    axes.imshow(np.concatenate(rows), cmap="RdBu_r", vmin=-1, vmax=1)
    names = [f"real\n{r.accuracy_real:.0%}", f"learned\n{r.accuracy_learned:.0%}"]
    axes.set_yticks([14, 42], names)
    axes.set(
        xticks=[],
        title=f"Ten images are the training set (all digits: {r.accuracy_all:.0%})",
    )
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.figure.set_size_inches(9, 2.6)


if __name__ == "__main__":
    show(globals())
