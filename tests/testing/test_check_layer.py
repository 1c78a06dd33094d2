"""`check_layer` sees layers that break a law, and says where and by how much."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from eqtangents import nn
from eqtangents.covariance import Scaled
from eqtangents.testing import check_layer


pytestmark = pytest.mark.precision("float32")
DETERMINISTIC = ("shapes", "symmetry", "positivity", "swap", "batching", "masks")


class Fade(nn.AbstractUnary):
    """Sound: positions count less, the further from the last they are."""

    decay: float = eqx.field(static=True)

    def factors(self, length):
        return self.decay ** np.arange(length - 1, -1, -1)

    def apply(self, value, extras):
        return value * jnp.asarray(self.factors(value.shape[1])[None], value.dtype)

    def push(self, covariance):
        return Scaled(covariance, self.factors(*covariance.outline.size))


@pytest.mark.slow
def test_a_sound_layer_passes():
    check_layer(Fade(0.8), (40, 5), laws=DETERMINISTIC)


@pytest.mark.slow
def test_a_sound_layer_passes_all_laws():
    check_layer(Fade(0.8), (40, 5))
    check_layer(nn.Sequential([Fade(0.8), nn.Relu()]), (40, 5), key=jr.key(7))
    check_layer(nn.Dropout(0.3), (40,))


class Wrong(nn.AbstractUnary):
    """What a layer says of its covariance, or does to values, as it is told."""

    of_values: object = eqx.field(static=True, default=lambda value, extras: value)
    of_covariance: object = eqx.field(
        static=True, default=lambda covariance: covariance
    )

    def apply(self, value, extras):
        return self.of_values(value, extras)

    def push(self, covariance):
        return self.of_covariance(covariance)


class Unwrapped(nn.AbstractParameterless):
    """It reads values that are missing."""

    def __call__(self, x, *, key=None):
        if not isinstance(x, nn.Masked):
            return x
        shift = x.value.mean(1, keepdims=True)
        return nn.Masked(jnp.where(x.mask[None], x.value + 0 * shift, 0), x.mask)

    def propagate(self, covariance):
        return covariance


class Widened(nn.AbstractParameterless):
    """It drops half of its channels, and says nothing of it."""

    def __call__(self, x, *, key=None):
        value, extras = nn.unwrap(x)
        return extras.rewrap(value[::2], extras.mask)

    def propagate(self, covariance):
        return covariance


def by_place(covariance):
    """Factors that belong to places in the two batches, not to examples."""
    n = 8
    return Scaled(covariance, jnp.linspace(0.5, 1.0, n)[:, None] * jnp.ones((1, 5)))


BROKEN = {
    "factor instead of its square": (
        Wrong(lambda value, extras: 2.0 * value, lambda one: Scaled(one, 2**0.5)),
        "finite width",
        r"(nngp|ntk) at \(\d, \d\) is .*drawn networks of width 40 .*standard error",
    ),
    "places instead of examples": (
        Wrong(of_covariance=by_place),
        "symmetry",
        r"of a batch with a copy of it at \(\d, \d\) is .*should be .* off",
    ),
    "missing values are read": (
        Unwrapped(),
        "masks",
        r"output of the layer with NaN .*is nan, but should be",
    ),
    "channels are lost": (
        Widened(),
        "shapes",
        r"outputs have shape \(20, 5\), but their covariance \(40, 5\)",
    ),
    "statistics of the batch": (
        nn.BatchNorm(),
        "symmetry",
        "has no kernel: its output for one example depends on all others",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "law", "message"), BROKEN.values(), ids=BROKEN.keys()
)
def test_a_broken_layer_fails(layer, law, message):
    with pytest.raises((AssertionError, nn.LayerError), match=message):
        check_layer(layer, (40, 5), laws=[law])


def test_negative_variances_are_seen():
    """A rule that is no covariance: its square of a factor is minus one."""

    class Imaginary(Scaled):
        def bind(self, frame):
            rule = super().bind(frame)
            if frame.self_pairs:
                return rule
            return lambda at: rule(at).scaled(jnp.asarray(-1.0))

    layer = Wrong(of_covariance=lambda one: Imaginary(one, 1.0))
    with pytest.raises(
        AssertionError, match=r"law of positivity.*has the eigenvalue -"
    ):
        check_layer(layer, (40, 5), laws=["positivity"])


def test_what_is_no_layer_or_no_law_is_refused(without_jaxtyping):
    with pytest.raises(TypeError, match="the class `Relu` is no layer"):
        check_layer(nn.Relu, (40, 5))
    with pytest.raises(ValueError, match="no law of gravity"):
        check_layer(nn.Relu(), (40, 5), laws=["gravity"])


def test_unary_layers_refuse_what_they_cannot_wrap(without_jaxtyping):
    x = jnp.ones((3, 4))
    with pytest.raises(nn.LayerError, match="takes one input, but gets 2"):
        nn.Scale(2.0)((x, x))
    with pytest.raises(nn.LayerError, match=r"\(3, 4\) into \(3, 2\).*keeps all pos"):
        Wrong(lambda value, extras: value[:, :2])(x)
