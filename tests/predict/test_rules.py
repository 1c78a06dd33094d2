"""Rules of training obey the laws of a gain, and stand for what they say."""

import jax.numpy as jnp
import optax
import pytest
from jax import lax

from eqtangents.predict import AbstractRule, GradientFlow, GradientSteps, flow_gain
from eqtangents.testing import check_rule


def _optax(learning_rate, weight_decay=0.0, **momentum):
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, optax.sgd(learning_rate, **momentum))


# Each rule of the library, and what it stands for: options of `check_rule`.
RULES = {
    "flow, decay": lambda: (
        GradientFlow(0.5, weight_decay=0.1),
        {"velocity": lambda t, p, gradient: -0.5 * (gradient + 0.1 * p)},
    ),
    "Nesterov, decay": lambda: (
        GradientSteps(0.5, momentum=0.8, nesterov=True, weight_decay=0.05),
        {
            "optimiser": _optax(0.5, 0.05, momentum=0.8, nesterov=True),
            "monotone": False,
        },
    ),
    "flow": lambda: (
        GradientFlow(0.5),
        {"velocity": lambda t, p, gradient: -0.5 * gradient},
    ),
    "flow, schedule": lambda: (GradientFlow(jnp.asarray([3.0, 0.0, 1.0, 2.0])), {}),
    "steps": lambda: (GradientSteps(0.5), {"optimiser": _optax(0.5)}),
    "steps, schedule": lambda: (
        GradientSteps(jnp.asarray([0.3, 0.0, 0.1])),
        {
            "optimiser": _optax(lambda i: jnp.asarray([0.3, 0.0, 0.1])[i.clip(max=2)]),
            "largest_curvature": 3.0,
        },
    ),
    "momentum": lambda: (
        GradientSteps(0.5, momentum=0.8),
        {"optimiser": _optax(0.5, momentum=0.8), "monotone": False},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_rules_obey_their_laws(name):
    rule, options = RULES[name]()
    check_rule(rule, **options)


# ------------------------------------------------------------------------------------
# Rules that break a law.
# ------------------------------------------------------------------------------------


class _SpoiledSlope(AbstractRule):
    """The right gains, but their derivatives at zero are not numbers."""

    def gain(self, curvature, t):
        gain = -jnp.expm1(-t * curvature) / curvature
        limit = flow_gain(jnp.zeros_like(curvature), t)
        gain = jnp.where(curvature > 0, gain, limit)
        return jnp.where(jnp.isinf(t), flow_gain(curvature, t), gain)


class _WrongSlope(AbstractRule):
    """The right gains, but their derivatives are cut off."""

    def gain(self, curvature, t):
        return flow_gain(lax.stop_gradient(curvature), t)


class _EndsElsewhere(AbstractRule):
    """A flow with weight decay, which the end of training forgets."""

    def gain(self, curvature, t):
        end = flow_gain(curvature, jnp.inf)
        return jnp.where(jnp.isinf(t), end, flow_gain(curvature + 0.1, t))


class _StartsLate(AbstractRule):
    """Steps that are counted from one."""

    def gain(self, curvature, t):
        return flow_gain(curvature, t + 1)


class _Branches(AbstractRule):
    """A flow that looks at the time in Python."""

    def gain(self, curvature, t):
        return flow_gain(curvature, t) if t > 0 else jnp.zeros_like(curvature)


class _Joint(AbstractRule):
    """A flow whose learning rate depends on all curvatures."""

    def gain(self, curvature, t):
        return flow_gain(curvature, t / (1 + jnp.max(curvature)))


class _Jumps(AbstractRule):
    """A flow that learns nothing where there is no curvature."""

    def gain(self, curvature, t):
        return jnp.where(curvature > 0, flow_gain(curvature, t), 0)


OVERSHOOTING = GradientSteps(0.5, momentum=0.8)
BROKEN = {
    "start": (_StartsLate(), {}, "before any training is not 0, at curvature 0 and"),
    "traced times": (_Branches(), {}, "choose by `jnp.where`, not by `if`"),
    "among others": (_Joint(), {}, "one curvature alone differs"),
    "curvature zero": (
        _Jumps(),
        {},
        r"not continuous.* t = 1: 0 instead of 0.999.*, off by",
    ),
    "end": (_EndsElsewhere(), {}, r"not its limit.* t = inf: .* instead of"),
    "finite slopes": (_SpoiledSlope(), {}, "the curvature is not finite at t = "),
    "slopes": (
        _WrongSlope(),
        {},
        "derivative with respect to the curvature, at .*: 0 ",
    ),
    "monotone": (OVERSHOOTING, {}, "fallen with time|more than all of the error"),
    "optimiser": (
        GradientSteps(0.5),
        {"optimiser": optax.sgd(0.4)},
        "differ from those of the optimiser, at curvature .* instead of .* off by",
    ),
    "velocity": (
        GradientFlow(0.5),
        {"velocity": lambda t, p, gradient: -0.4 * gradient},
        "differ from the solution of the differential equation",
    ),
}


QUICK_LAWS = ("start", "traced times", "end", "finite slopes")


@pytest.mark.parametrize(
    "law",
    [n if n in QUICK_LAWS else pytest.param(n, marks=pytest.mark.slow) for n in BROKEN],
)
@pytest.mark.precision("float32")
def test_a_broken_rule_is_seen(law):
    rule, options, message = BROKEN[law]
    with pytest.raises(AssertionError, match=message):
        check_rule(rule, **options)


@pytest.mark.precision("float32")
@pytest.mark.usefixtures("without_jaxtyping")
def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match=r"`rule` is 0.1, but a `GradientFlow`"):
        check_rule(0.1)
