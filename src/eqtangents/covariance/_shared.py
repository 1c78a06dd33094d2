"""What several tables are computed from, which is tabulated once itself.

Each attention asks for a table of its input, and so does what follows the network. With
residual connections each of these would be computed from all blocks before it, and the
cost would grow with the square of their number.
"""

import math

from eqtangents.covariance._block import Block
from eqtangents.covariance._covariance import AbstractCovariance
from eqtangents.covariance._frame import Scope
from eqtangents.covariance._order import first_to_last
from eqtangents.covariance._readout import bounded
from eqtangents.covariance._table import Stored, dense_block, tables_of


def output_block(scope: Scope, output: AbstractCovariance) -> Block:
    """The entries of a network's output, `(n1, n2, *size, *size)`."""
    store_shared(scope, output)
    return bounded(scope, output, dense_block(scope, output))


def store_shared(scope: Scope, output: AbstractCovariance) -> None:
    """Tabulate what several tables are computed from, for all that a scope computes.

    And what is tabulated in any case, so that no table is begun within another one.
    """
    order = first_to_last(output, lambda node: node.above)
    shared = _shared(order)
    for node in order:
        if node in shared:
            tables = tables_of(scope, node, node.outline.canvas)
            scope.stored[node] = Stored(tables, node.outline)
        elif node.tabulates and node.upstream.outline.rank:
            tables_of(scope, node.upstream, node.upstream.outline.canvas)


def _shared(order: list[AbstractCovariance]) -> set[AbstractCovariance]:
    """The covariances that several tables are computed from, of all up to an output.

    A table of a covariance takes the place of those that are computed from it.
    """
    output = order[-1]
    # The tables that all displacements of a node are asked for by, also by way of other
    # nodes, and `None` where a stride leaves some of the displacements alone.
    asking: dict[AbstractCovariance, set[AbstractCovariance | None]]
    asking = {node: set() for node in order}
    asking[output] = {output} if output.outline.rank else set()
    shared = set()
    for node in reversed(order):
        tables = asking[node]
        if len(tables - {None}) > 1 and _is_worth_a_table(node, output):
            shared.add(node)
            tables = {node}
        asks = node.asks_where(coinciding=not tables)
        if asks == "otherwise":
            continue
        if asks == "everywhere":
            tables = {node}
        elif tables and any(stride > 1 for stride in node.stride):
            tables = {None}
        for one in node.above:
            asking[one] |= tables
    return shared


def _is_worth_a_table(node: AbstractCovariance, output: AbstractCovariance) -> bool:
    """Whether it is computed, and as small as tables that the network keeps anyway."""
    entries = math.prod(node.outline.canvas) ** 2
    computed = bool(node.above) and node.asks == "alike"
    return computed and 0 < node.outline.rank and entries <= output.outline.kept
