"""Covariance of symbols: what matters is whether two of them are equal."""

from eqtangents.covariance._block import Block, BlockRule, Evaluation
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Frame
from eqtangents.covariance._gaps import tracks_gaps, with_gaps


class EqualTokens(AbstractCovariance):
    r"""One for equal tokens, else zero: $K_{pp'} = \delta_{t_p t'_{p'}}$.

    It is the covariance of tokens as unit vectors, of which none is formed.
    """

    # Where an example has no position stands a token as any other.
    nonzero_where_masked = True

    def __init__(self, tokens: AbstractCovariance):
        """Compare the examples of an input of one channel."""
        assert tokens.examples is not None, "only inputs are known"
        self.tokens = tokens.examples[:, 0]
        self.outline = tokens.outline

    def bind(self, frame: Frame) -> BlockRule:
        """Compare the tokens of both positions."""
        dtype = frame.scope.dtype
        tokens = frame.per_example(self.tokens, self.outline.rank, -1.0)

        def equal(at: Evaluation) -> Block:
            left, right = tokens(at)
            return Block((left == right).astype(dtype), None)

        if not tracks_gaps(frame, self):
            return equal
        complete = with_gaps(frame, self)

        def with_gap(at: Evaluation) -> Block:
            block = equal(at)
            return complete(at, block._replace(gap=1 - block.nngp))

        return with_gap
