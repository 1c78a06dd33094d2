"""A plan carried out over a mesh, by one program or step by step."""

import functools
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, PyTree

from eqtangents._gram._device import Device, MatrixRows
from eqtangents._gram._pairs import AbstractPairs
from eqtangents._gram._placement import Placement
from eqtangents._gram._plan import Plan
from eqtangents._programs import whole_program
from eqtangents._tile_plan import Examples


class Task(eqx.Module):
    """All that there is to do, and where: arrays lie on the mesh already."""

    pairs: AbstractPairs
    x1: Examples
    x2: Examples
    plan: Plan = eqx.field(static=True)
    placement: Placement = eqx.field(static=True)

    def mapped(self, method: Any, extra: tuple[PartitionSpec, ...], out: Any) -> Any:
        """A function of a `Device`, both batches and more, over the whole mesh."""
        arrays, rest = eqx.partition(self.pairs, eqx.is_array)
        plan, place = self.plan, self.placement

        def of_device(arrays: PyTree, x1: Examples, x2: Examples, *more: Any) -> Any:
            device = Device(eqx.combine(arrays, rest), plan, place.row_axes)
            return method(device, x1, x2, *more)

        columns = place.rows if plan.ring else place.columns
        specs = PartitionSpec(), place.rows, columns, *extra
        run = place.mapped(of_device, specs, out)
        return lambda *more: run(arrays, self.x1, self.x2, *more)


@whole_program
def all_at_once(task: Task) -> MatrixRows:
    """The whole matrix, by one program."""

    def everything(
        device: Device, x1: Examples, x2: Examples, table: Int[Array, "1 v l 4"]
    ) -> MatrixRows:
        rows, visits = device.empty(x1, x2), table[0]
        if not task.plan.ring:
            return device.completed(device.advanced(rows, x1, x2, visits[0]))

        def visit(
            state: tuple[MatrixRows, Examples], tiles: Int[Array, "length 4"]
        ) -> tuple[tuple[MatrixRows, Examples], None]:
            visiting = device.moved_on(state[1])
            return (device.advanced(state[0], x1, visiting, tiles), visiting), None

        return device.completed(lax.scan(visit, (rows, x2), visits)[0][0])

    place = task.placement
    table = place.within(task.plan.table(), place.rows)
    run = task.mapped(everything, (place.rows,), place.matrix)
    return place.cut(run(table), task.plan.n1, task.plan.n2)


def one_after_the_other(task: Task, steps: int) -> Iterator[tuple[float, MatrixRows]]:
    """The share that is done and the rows so far, after each of about so many steps.

    The last rows are the whole matrix.
    """
    table, place = task.plan.table(), task.placement
    visits, length = table.shape[1:3]
    count = min(length, max(1, steps // visits))
    at_a_time = -(-length // count)
    rows = _begun(task)
    for visit in range(visits):
        if task.plan.ring:
            task = eqx.tree_at(lambda t: t.x2, task, _moved_on(task))
        for step in range(count):
            last = np.minimum(np.arange(at_a_time) + step * at_a_time, length - 1)
            tiles = place.put(table[:, visit, last], place.rows)
            rows = _advanced((task, tiles), rows)
            yield (visit * count + step + 1) / (visits * count + 1), rows
    yield 1.0, _completed(task, rows)


@whole_program
def _begun(task: Task) -> MatrixRows:
    return task.mapped(Device.empty, (), task.placement.matrix)()


@whole_program
def _moved_on(task: Task) -> Examples:
    move = lambda device, _, x2: device.moved_on(x2)
    return task.mapped(move, (), task.placement.rows)()


@functools.partial(whole_program, donate="all-except-first")
def _advanced(
    task_and_tiles: tuple[Task, Int[Array, "..."]], rows: MatrixRows
) -> MatrixRows:
    task, tiles = task_and_tiles
    advance = lambda device, x1, x2, tiles, rows: device.advanced(
        rows, x1, x2, tiles[0]
    )
    matrix = task.placement.matrix
    return task.mapped(advance, (task.placement.rows, matrix), matrix)(tiles, rows)


@whole_program
def _completed(task: Task, rows: MatrixRows) -> MatrixRows:
    matrix = task.placement.matrix
    complete = lambda device, _1, _2, rows: device.completed(rows)
    whole = task.mapped(complete, (matrix,), matrix)(rows)
    return task.placement.cut(whole, task.plan.n1, task.plan.n2)
