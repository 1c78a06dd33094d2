"""Fresh weights and biases, which act on each entry alone."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance._block import Block, BlockRule, Evaluation
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame
from eqtangents.covariance._gaps import tracks_gaps
from eqtangents.covariance._learning import learning_rates, may_train
from eqtangents.covariance._stencil import Stencil
from eqtangents.duals._pair import deviation


def with_gradients(block: Block, fresh: Float[Array, "..."]) -> Block:
    """The block with what gradients in fresh parameters add to its tangent kernel."""
    return block._replace(ntk=fresh if block.ntk is None else block.ntk + fresh)


class Affine(AbstractCovariance):
    r"""Fresh weights and biases: $K' = a K + b$, $T' = a T + g K + h$.

    The two terms of the tangent kernel that are not inherited are the gradients with
    respect to the new weights, `g K`, and to the new biases, `h`. The output's channels
    are independent Gaussians if each mixes infinitely many of the input's.
    """

    nonzero_where_masked = True

    def __init__(
        self,
        upstream: AbstractCovariance,
        *,
        scale: Scalar,
        shift: Scalar,
        weight_gradient: Scalar,
        bias_gradient: Scalar,
        channels: int,
        gaussian: bool = True,
        seen: AbstractCovariance | None = None,
    ):
        """Set the numbers, which are the same for all entries.

        `seen`: the covariance in `g K`, what the weights multiply where that has other
        variances than the weights, if it is not that in `a K`.
        """
        self.seen = None if seen is upstream else seen
        self.above = (upstream,) if self.seen is None else (upstream, self.seen)
        self.scale, self.shift = scale, shift
        self.weight_gradient, self.bias_gradient = weight_gradient, bias_gradient
        self.outline = upstream.outline.with_weights(channels, gaussian=gaussian)
        self.nonnegative = upstream.nonnegative
        self.in_buffers = upstream.in_buffers

    def bind(self, frame: Frame) -> BlockRule:
        upstream, inherited = frame.bind(self.upstream), self.inherited(frame)
        fresh_of = self._fresh_rule(frame)

        def rule(at: Evaluation) -> Block:
            block = at(inherited)
            fresh = fresh_of(at, at(upstream).nngp)
            return block if fresh is None else with_gradients(block, fresh)

        return rule

    def inherited(self, frame: Frame) -> BlockRule:
        """The rule as if the layer's own parameters were not trained: `T' = a T`."""
        upstream, gap_of = frame.bind(self.upstream), self._gap_rule(frame)

        def rule(at: Evaluation) -> Block:
            block = at(upstream)
            dtype = block.nngp.dtype
            scale, shift = (jnp.asarray(c, dtype) for c in (self.scale, self.shift))
            ntk = None if block.ntk is None else scale * block.ntk
            return Block(scale * block.nngp + shift, ntk, gap_of(at, block))

        return rule

    def is_long_sum(self, frame: Frame) -> bool:
        """Whether compilers repeat a sum over a window wherever this is read."""
        return isinstance(self.upstream, Stencil) and self.upstream.repeated(frame)

    @property
    def adds_covariance(self) -> bool:
        """Whether its own gradients are known to add `K'` to the tangent kernel.

        They do in the parameterisation of tangent kernels, if all parameters train
        alike.
        """
        numbers = self.scale, self.shift, self.weight_gradient, self.bias_gradient
        known = all(isinstance(number, int | float) for number in numbers)
        return known and self.seen is None and numbers[:2] == numbers[2:]

    def _fresh_rule(
        self, frame: Frame
    ) -> Callable[[Evaluation, Float[Array, "..."]], Float[Array, "..."] | None]:
        """What the layer's own parameters add to the tangent kernel, if anything."""
        gradients = self.weight_gradient, self.bias_gradient
        if not (frame.wants_ntk and any(map(may_train, gradients))):
            return lambda at, nngp: None
        rates = learning_rates(frame, *gradients)
        seen = None if self.seen is None else frame.bind(self.seen)

        def fresh(at: Evaluation, nngp: Float[Array, "..."]) -> Float[Array, "..."]:
            weights, biases = (jnp.asarray(rate, nngp.dtype) for rate in rates(at))
            return weights * (nngp if seen is None else at(seen).nngp) + biases

        return fresh

    def _gap_rule(
        self, frame: Frame
    ) -> Callable[[Evaluation, Block], Float[Array, "..."] | None]:
        r"""The gap of the sum of the scaled input and a constant, the bias.

        With $\tan\phi = \sigma_b / (\sqrt{a} s)$ the constant adds
        $\sigma \sigma' (1 - \cos(\phi - \phi'))$, which is a square.
        """
        if not tracks_gaps(frame, self):
            return lambda at, block: None
        biased = eqx.is_array(self.shift) or self.shift != 0
        angles = frame.per_example(self._half_angles(frame), 0, 0.0) if biased else None

        def rule(at: Evaluation, block: Block) -> Float[Array, "..."] | None:
            if block.gap is None:
                return None
            scale = lax.stop_gradient(jnp.asarray(self.scale, block.gap.dtype))
            gap = scale * block.gap
            if angles is None:
                return gap
            (sine, cosine), (other_sine, other_cosine) = angles(at)
            root = sine * other_cosine - cosine * other_sine
            return gap + root * root

        return rule

    def _half_angles(
        self, frame: Frame
    ) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        r"""Sine and cosine of $\phi / 2$, times the root of $\sqrt{2} \sigma$."""
        before = deviation(frame.scope.variance(self.upstream))
        after = deviation(frame.scope.variance(self))
        scale, shift = (
            jnp.asarray(c, after.std.dtype) for c in (self.scale, self.shift)
        )
        cosine = jnp.sqrt(scale) * before.std * after.reciprocal
        half = jnp.sqrt(0.5 * (1 + lax.min(cosine, jnp.ones_like(cosine))))
        sine = 0.5 * jnp.sqrt(shift) * after.reciprocal / half
        size = jnp.sqrt(2**0.5 * after.std)
        return lax.stop_gradient((size * sine, size * half))
