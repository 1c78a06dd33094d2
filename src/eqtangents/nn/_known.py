"""Functions of JAX, and the layers that they are."""

from collections.abc import Callable, Hashable

import jax
import jax.numpy as jnp
from jax import lax

from eqtangents.nn._activations import AbstractActivation
from eqtangents.nn._expanded import Elu, Gelu, Selu, Sigmoid, Silu, Softplus, Tanh
from eqtangents.nn._piecewise import HardTanh, Relu6
from eqtangents.nn._polynomials import Monomial
from eqtangents.nn._rectifiers import ABRelu, Relu, Sign
from eqtangents.nn._smooth import Cos, Erf, Exp, Sin


LAYER_OF_FUNCTION: dict[Callable, AbstractActivation] = {
    jax.nn.relu: Relu(),
    jax.nn.relu6: Relu6(),
    jax.nn.hard_tanh: HardTanh(),
    jax.nn.leaky_relu: ABRelu(0.01, 1.0),
    jax.nn.gelu: Gelu(approximate=True),
    jax.nn.silu: Silu(),
    jax.nn.sigmoid: Sigmoid(),
    jax.nn.softplus: Softplus(),
    jax.nn.elu: Elu(),
    jax.nn.selu: Selu(),
    jax.nn.tanh: Tanh(),
    jnp.tanh: Tanh(),
    lax.tanh: Tanh(),
    lax.logistic: Sigmoid(),
    jax.scipy.special.expit: Sigmoid(),
    jax.scipy.special.erf: Erf(),
    lax.erf: Erf(),
    jnp.abs: ABRelu(-1.0, 1.0),
    lax.abs: ABRelu(-1.0, 1.0),
    jnp.sign: Sign(),
    lax.sign: Sign(),
    jnp.sin: Sin(),
    lax.sin: Sin(),
    jnp.cos: Cos(),
    lax.cos: Cos(),
    jnp.exp: Exp(),
    lax.exp: Exp(),
    jnp.square: Monomial(2),
    lax.square: Monomial(2),
}


def known_activation(fn: Callable) -> AbstractActivation | None:
    """The layer that a function is, recognised by its identity."""
    # By the very object: equal ones of other types may be anything.
    if not isinstance(fn, Hashable) or isinstance(fn, AbstractActivation):
        return None
    try:
        return LAYER_OF_FUNCTION.get(fn)
    except TypeError:  # it holds what cannot be hashed
        return None
