"""Rules that act on each entry alone: affine maps, nonlinearities, joined branches."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from eqtangents._types import Scalar
from eqtangents.covariance._covariance import (
    AbstractCovariance,
    new_source,
)
from eqtangents.covariance._frame import Block, BlockRule, Evaluation, Frame
from eqtangents.duals._pair import deviation


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
    ):
        """Apply to a covariance."""
        self.upstream = upstream
        self.scale, self.shift = scale, shift
        self.weight_gradient, self.bias_gradient = weight_gradient, bias_gradient
        self.outline = upstream.outline.replace(
            channels=channels,
            gaussian=gaussian,
            sources=new_source(),
            centred=True,
            trainable=True,
            exchangeable=True,
            has_trained_gains=False,
            diagonal=False,
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Apply entry by entry."""
        upstream = frame.bind(self.upstream)
        gap_of = self._gap_rule(frame)

        def rule(at: Evaluation) -> Block:
            block = at(upstream)
            nngp, ntk = block.nngp, block.ntk
            scale, shift, weight_gradient, bias_gradient = (
                jnp.asarray(constant, nngp.dtype)
                for constant in (
                    self.scale,
                    self.shift,
                    self.weight_gradient,
                    self.bias_gradient,
                )
            )
            if frame.wants_ntk:
                fresh = weight_gradient * nngp + bias_gradient
                ntk = fresh if ntk is None else scale * ntk + fresh
            return Block(scale * nngp + shift, ntk, gap_of(at, block))

        return rule

    def _gap_rule(
        self, frame: Frame
    ) -> Callable[[Evaluation, Block], Float[Array, "..."] | None]:
        r"""The gap of the sum of the scaled input and a constant, the bias.

        With $\tan\phi = \sigma_b / (\sqrt{a} s)$ the constant adds
        $\sigma \sigma' (1 - \cos(\phi - \phi'))$, which is a square.
        """
        if not frame.tracks_gaps(self):
            return lambda at, block: None
        biased = eqx.is_array(self.shift) or self.shift != 0
        handle = frame.per_example(self._half_angles(frame), 0, 0.0) if biased else None

        def rule(at: Evaluation, block: Block) -> Float[Array, "..."] | None:
            if block.gap is None:
                return None
            scale = lax.stop_gradient(jnp.asarray(self.scale, block.gap.dtype))
            gap = scale * block.gap
            if handle is None:
                return gap
            (sine, cosine), (other_sine, other_cosine) = at.fields[handle]
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


class Scaled(AbstractCovariance):
    """A factor for all positions, for each of them, or for each of every example.

    `K'[p, p'] = f[p] K[p, p'] f[p']`.
    """

    def __init__(
        self,
        upstream: AbstractCovariance,
        factor: Scalar | Float[Array | np.ndarray, "..."],
    ):
        """Multiply outputs by a number, or `(*size)` or `(n, *size)` of them."""
        self.upstream, self.factor, self.outline = upstream, factor, upstream.outline

    def bind(self, frame: Frame) -> BlockRule:
        """Multiply by the factors of both ends."""
        upstream = frame.bind(self.upstream)
        if not jnp.ndim(self.factor):

            def scalar_rule(at: Evaluation) -> Block:
                factor = jnp.asarray(self.factor, frame.scope.dtype)
                return at(upstream).scaled(factor * factor)

            return scalar_rule

        n = frame.scope.n1 + frame.scope.n2
        factor = jnp.asarray(self.factor, frame.scope.dtype)
        factors = jnp.broadcast_to(factor, (n, *self.outline.size))
        handle = frame.per_example(factors, self.outline.rank, 0.0)

        def rule(at: Evaluation) -> Block:
            left, right = at.fields[handle]
            block = at(upstream)._replace(gap=None)  # Some factors may be negative.
            return block.scaled(left * right)

        return rule


class Vanished(AbstractCovariance):
    """Outputs that vanish in the limit, but for a constant: the tangent kernel stays.

    So is the readout of a network in the maximal-update parameterisation.
    """

    nonzero_where_masked = True

    def __init__(self, upstream: AbstractCovariance, constant: Scalar):
        """Replace the covariance, which is small, by the constant in it."""
        self.upstream, self.constant = upstream, constant
        self.outline = upstream.outline.replace(vanishing=True)

    def bind(self, frame: Frame) -> BlockRule:
        """Keep the tangent kernel alone."""
        upstream = frame.bind(self.upstream)

        def rule(at: Evaluation) -> Block:
            block = at(upstream)
            constant = jnp.asarray(self.constant, block.nngp.dtype)
            return Block(jnp.broadcast_to(constant, block.nngp.shape), block.ntk)

        return rule
