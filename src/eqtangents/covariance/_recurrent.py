"""Weights that are shared in time: one recursion for each displacement."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from eqtangents._types import Scalar
from eqtangents.covariance._affine import Affine
from eqtangents.covariance._block import Block, BlockRule, Evaluation, Lookup
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame, Scope
from eqtangents.covariance._gaps import tolerance
from eqtangents.covariance._lattice import partner, positions
from eqtangents.covariance._learning import learning_rates
from eqtangents.covariance._outline import new_source
from eqtangents.duals._dual import AbstractDual, in_terms
from eqtangents.duals._pair import Pair


class States(AbstractCovariance):
    """Stands for the states of a recurrence, to ask a layer what it does to them."""

    def __init__(self, inputs: AbstractCovariance):
        """Have the facts of states that some inputs are added to."""
        outline = inputs.outline
        self.outline = outline.replace(
            gaussian=False,
            centred_by=(),
            sources=outline.sources | new_source(),
            trainable=True,
            exchangeable=True,
            summable=False,
        )

    def bind(self, frame: Frame) -> BlockRule:
        raise AssertionError("states are known to the recurrence alone")


class _SequenceEnds(NamedTuple):
    """What the recursion needs at each pair of positions, positions first."""

    starts: Bool[Array, "*canvas"]
    exist: Bool[Array, "..."] | None
    left: Any
    right: Any


class Recurrence(AbstractCovariance):
    r"""States $h_t = \phi(W h_{t-1} + x_t)$, with one $W$ at all times.

    With $K, T$ of the states and $X, X_T$ of the inputs, at positions $s$ and $t$,

    $$Q_{st} = a K_{s-1,t-1} + b + X_{st}, \qquad
    Q^T_{st} = a T_{s-1,t-1} + g K_{s-1,t-1} + h + X^T_{st},$$

    $$K_{st} = \mathbb{E}\, \phi(u) \phi(v), \qquad
    T_{st} = Q^T_{st}\, \mathbb{E}\, \phi'(u) \phi'(v), \qquad
    (u, v) \sim \mathcal{N}(0, Q)_{st}.$$

    Before the first position, and where an example has none, states are zero. Both
    positions move together, so that each displacement is a recursion of its own.
    """

    def __init__(
        self,
        inputs: AbstractCovariance,
        hidden: Affine,
        dual: AbstractDual,
        *,
        reverse: bool,
    ):
        """Recur over the one axis of the inputs, forwards or backwards.

        `hidden`: what $W$ does to `States` of these inputs.
        """
        self.above, self.hidden, self.dual = (inputs,), hidden, dual
        self.reverse = reverse
        self.outline = hidden.upstream.outline.replace(
            channels=hidden.outline.channels, has_trained_gains=False, diagonal=False
        )

    def bind(self, frame: Frame) -> BlockRule:
        """Look up the variances of both ends, then recur over the positions."""
        if frame.self_pairs and frame.canvas is None:
            return frame.constant(Block(self._states(frame.scope), None))
        inputs, ends = frame.bind(self.upstream), self._ends(frame)
        within = tolerance(frame, 1)
        rates = learning_rates(
            frame, self.hidden.weight_gradient, self.hidden.bias_gradient
        )

        def rule(at: Evaluation) -> Block:
            block = at(inputs)
            if frame.wants_ntk:
                block = block.with_ntk()
            near = within(at)
            step = self._step(rates(at), None if near is None else near[..., 0])
            moved = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), block)
            zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), moved)
            over = moved._replace(gap=None), ends(at)
            zeros = zeros._replace(gap=None)
            _, states = lax.scan(step, zeros, over, reverse=self.reverse)
            return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), states)

        return rule

    def _step(
        self, rates: tuple[Scalar, ...], within: Float[Array, "..."] | None
    ) -> Callable[[Block, tuple[Block, _SequenceEnds]], tuple[Block, Block]]:
        def step(state: Block, one: tuple[Block, _SequenceEnds]) -> tuple[Block, Block]:
            added, ends = one
            zero = jnp.zeros((), state.nngp.dtype)
            state = jax.tree.map(lambda s: jnp.where(ends.starts, zero, s), state)
            nngp, ntk = self._weighted(state, rates)
            nngp = nngp + added.nngp
            pair = Pair(nngp, None, within)
            value, derivative, *_ = self.dual.moments(pair, ends.left, ends.right)
            if ntk is not None and added.ntk is not None:
                ntk = derivative * (ntk + added.ntk)
            new = Block(value, ntk)
            if ends.exist is not None:
                there = ends.exist
                new = jax.tree.map(lambda leaf: jnp.where(there, leaf, zero), new)
            return new, new

        return step

    def _weighted(
        self, state: Block, rates: tuple[Scalar, ...]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."] | None]:
        """Both kernels of the states times the weights, with the biases."""
        scale, shift, weights, biases = (
            jnp.asarray(number, state.nngp.dtype)
            for number in (self.hidden.scale, self.hidden.shift, *rates)
        )
        nngp, ntk = scale * state.nngp + shift, state.ntk
        if ntk is not None:
            ntk = scale * ntk + weights * state.nngp + biases
        return nngp, ntk

    def _states(self, scope: Scope) -> Float[Array, "n positions"]:
        """The variances of the states."""
        return self._variances(scope)[1]

    def _variances(
        self, scope: Scope
    ) -> tuple[Float[Array, "n positions"], Float[Array, "n positions"]]:
        """The variances before and after the nonlinearity."""
        mask = self.outline.mask

        def build() -> tuple[Array, Array]:
            added = scope.variance(self.upstream)
            there = jnp.ones_like(added, bool) if mask is None else mask

            def step(state: Array, one: tuple[Array, Array]) -> tuple[Array, Any]:
                nngp, _ = self._weighted(Block(state, None), (0.0, 0.0))
                before = nngp + one[0]
                zero = jnp.zeros((), before.dtype)
                after = jnp.where(one[1], self.dual.diagonal(before), zero)
                return after, (before, after)

            start = jnp.zeros_like(added[:, 0])
            over = added.T, there.T
            _, found = lax.scan(step, start, over, reverse=self.reverse)
            return found[0].T, found[1].T

        return scope.memo.once(self, "variances", build)

    def _ends(self, frame: Frame) -> Lookup[_SequenceEnds]:
        """Register what the recursion needs, but for its inputs."""
        before, _ = self._variances(frame.scope)
        prepared = frame.per_example(self.dual.prepare(before), 1, 1.0)
        mask, size = self.outline.mask, self.outline.size[0]
        exist = None if mask is None else frame.per_example(mask, 1, False)
        first = size - 1 if self.reverse else 0

        def starting(d: Int[Array, " 1"]) -> Bool[Array, " canvas"]:
            assert frame.canvas is not None
            there = partner(frame.canvas[0], d[0])
            return (positions(frame.canvas[0]) == first) | (there == first)

        starts = lambda at: positions(size) == first
        if frame.canvas is not None:
            starts = frame.mask(("first", first), starting)

        def ends(at: Evaluation) -> _SequenceEnds:
            left, right = in_terms(prepared(at))
            both = None
            if exist is not None:
                one, other = exist(at)
                both = one & other
            move = lambda leaf: jnp.moveaxis(leaf, -1, 0)
            return jax.tree.map(move, _SequenceEnds(starts(at), both, left, right))

        return ends
