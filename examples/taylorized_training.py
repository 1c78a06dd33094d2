"""How long Taylor polynomials of a network can stand for it in training.

A fully-connected network learns handwritten digits by gradient descent. So do its
Taylor polynomials in the parameters, from the same start, with the same steps. The one
of order 1, the linearized network, is what the theory of the neural tangent kernel is
about; those of higher orders follow the network longer (Bai et al. 2020,
arXiv:2002.04010).

`python examples/taylorized_training.py` takes about a minute on two cores and saves a
figure, `taylorized_training.png`.
"""

import functools
import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import eqtangents as eqt
from eqtangents import nn, predict
from style import COLOURS, log_axis, panels


jax.config.update("jax_default_prng_impl", "rbg")  # compiles faster on a CPU

N_TRAIN, N_TEST, WIDTH = 256, 512, 128
ORDERS = [1, 2, 3, 4]
STEPS = np.unique(np.round(np.geomspace(1, 600, 60)).astype(int))
OPTIMISER = optax.sgd(0.3)


def network():
    hidden = functools.partial(nn.Linear, WIDTH, weight_std=1.5, bias_std=0.1)
    return nn.Sequential([hidden(), nn.Tanh(), hidden(), nn.Tanh(), nn.Linear(10)])


def load():
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))[: N_TRAIN + N_TEST]
    x = digits.data[order].astype(np.float32)
    return jnp.asarray((x - x.mean()) / x.std()), jnp.asarray(digits.target[order])


@eqx.filter_jit
def trained(model, x, labels):
    """Outputs after each number of steps; any module is trained alike."""
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    outputs = lambda params: jax.vmap(eqx.combine(params, rest))(x)
    loss = lambda params: predict.cross_entropy(
        outputs(params)[:N_TRAIN], labels[:N_TRAIN]
    )

    def step(_, carry):
        params, state = carry
        updates, state = OPTIMISER.update(jax.grad(loss)(params), state)
        return eqx.apply_updates(params, updates), state

    def advance(carry, steps):
        carry = jax.lax.fori_loop(0, steps, step, carry)
        return carry, outputs(carry[0])

    taken = jnp.asarray(np.diff(STEPS, prepend=0))
    return jax.lax.scan(advance, (params, OPTIMISER.init(params)), taken)[1]


# Of one hue, darker for higher orders.
BLUES = ["#9ecae1", "#5ba3cf", "#2171b5", "#08306b"]


def draw(path, distances, losses):
    with panels(path, 2) as (left, right):
        for order, colour in zip(ORDERS, BLUES, strict=True):
            line = {"color": colour, "label": f"order {order}"}
            left.plot(STEPS, distances[order], **line)
            right.plot(STEPS, losses[order], **line)
        orange = COLOURS["orange"]
        right.plot(STEPS, losses["network"], color=orange, label="network", zorder=3)
        left.set(title="They part from the network", yscale="log")
        left.set_ylabel("relative distance of outputs, test digits")
        right.set_title("What they have learned")
        right.set_ylabel("cross-entropy, test digits")
        log_axis(right, y=[0.5, 1, 2])
        for axes in (left, right):
            axes.set_xlabel("steps of gradient descent")
            log_axis(axes, x=[1, 10, 100, 600])
            axes.legend()


def main():
    console = Console()
    x, labels = load()
    model = network().init(x.shape[1:], key=jr.key(0))
    outputs = {}
    with console.status("The network ..."):
        outputs["network"] = trained(model, x, labels)
    for order in ORDERS:
        with console.status(f"Its polynomial of order {order} ..."):
            outputs[order] = trained(eqt.taylorize(model, order), x, labels)

    tests = {name: f[:, N_TRAIN:] for name, f in outputs.items()}
    size = jnp.linalg.norm(tests["network"], axis=(1, 2))
    distances = {
        order: jnp.linalg.norm(tests[order] - tests["network"], axis=(1, 2)) / size
        for order in ORDERS
    }
    loss = jax.vmap(lambda f: predict.cross_entropy(f, labels[N_TRAIN:]))
    losses = {name: loss(f) for name, f in tests.items()}

    table = Table(title=f"{N_TRAIN} digits to train, {N_TEST} to test")
    for column in ("model", "steps until 2% off", "test loss", "test accuracy"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, f in tests.items():
        off = [] if name == "network" else np.flatnonzero(distances[name] > 0.02)
        until = f"{STEPS[off[0]]}" if len(off) else ""
        right = jnp.mean(predict.decode_labels(f[-1]) == labels[N_TRAIN:])
        title = name if name == "network" else f"order {name}"
        table.add_row(title, until, f"{losses[name][-1]:.3f}", f"{right:.1%}")
    console.print(table)
    path = pathlib.Path("taylorized_training.png").resolve()
    draw(path, distances, losses)
    console.print(f"Figure: {path}")


if __name__ == "__main__":
    main()
