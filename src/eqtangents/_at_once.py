"""Numbers that are computed while something else is traced."""

import contextlib
from collections.abc import Iterator

import jax
from jax.sharding import AbstractMesh


_NO_MESH = AbstractMesh((), ())


@contextlib.contextmanager
def computed_at_once() -> Iterator[None]:
    """Let operations on known numbers give numbers, whatever is traced around them.

    Of the mesh around a `jax.shard_map` they see nothing: JAX could not make arrays of
    ones there within a compiled function.
    """
    with jax.ensure_compile_time_eval(), jax.sharding.use_abstract_mesh(_NO_MESH):
        yield
