"""Functions of the network's input."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray, Real

from eqtangents.covariance import AbstractCovariance, InputCovariance
from eqtangents.nn._inputs import Masked, unwrap
from eqtangents.nn._layer import AbstractParameterless, Covariances, LayerError


class Prepare(AbstractParameterless):
    r"""Any function of the inputs of the network, which is known and never trained.

    $$K(x, x')_{pp'} = \frac{1}{C} f(x)_p \cdot f(x')_{p'}$$

    Features, encodings of positions, another order of axes: whatever comes before the
    first layer with weights.

    **Arguments:**

    - `fn`: maps one example to an array `(channels, *spatial)`; of several inputs, it
        takes as many arguments.

    Inputs may be integers, which kernels make floating-point numbers of before.
    """

    takes_integers: ClassVar[bool] = True

    fn: Callable = eqx.field(static=True)

    def __call__(self, x: Any, *, key: PRNGKeyArray | None = None) -> Array:
        several = isinstance(x, tuple | list)
        return self.fn(*(self._plain(one) for one in (x if several else (x,))))

    def propagate(self, covariance: Covariances) -> AbstractCovariance:
        several = isinstance(covariance, tuple | list)
        given = tuple(covariance) if several else (covariance,)
        for one in given:
            if not isinstance(one, AbstractCovariance) or one.examples is None:
                raise LayerError(
                    self,
                    "is a function of the input, but follows another layer. Put it "
                    "first in the network.",
                )
            if one.outline.mask is not None or one.outline.graph is not None:
                raise _not_an_array(self)
        examples = [one.examples for one in given]
        sources = frozenset().union(*(one.outline.sources for one in given))
        return InputCovariance(jax.vmap(self.fn)(*examples), sources=sources)

    def _plain(self, x: Any) -> Real[Array, "..."]:
        value, extras = unwrap(x)
        if isinstance(x, Masked) or extras.adjacency is not None:
            raise _not_an_array(self)
        return value


def _not_an_array(layer: Prepare) -> LayerError:
    return LayerError(
        layer,
        "is a function of plain arrays, but its input has a mask or a graph. Give the "
        "values alone; an adjacency may be a second input of the model.",
    )
