"""Kernels of every kind of backing, and systems of equations."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import eqtangents as eqt
from eqtangents import nn
from mesh_cases import line, square
from precision import DTYPE


def network(width=1.3, bias=0.2):
    hidden = nn.Linear(8, weight_std=jnp.asarray(width, DTYPE), bias_std=bias)
    return nn.Sequential([hidden, nn.Relu(), nn.Linear(1)])


def batch(n, seed=0, d=4):
    return jr.normal(jr.key(seed), (n, d), DTYPE)


def laplace(a, b, rate=1.0):
    return jnp.exp(-rate * jnp.sum(jnp.abs(a[:, None] - b[None]), -1))


def held(make):
    """An operator of the matrix that `make` makes of an array of JAX."""

    def operator(path, x1, x2=None, **noise):
        matrix = laplace(x1, x1 if x2 is None else x2)
        return eqt.GramOperator(make(path, matrix), **noise)

    return operator


def on_disk(path, matrix):
    mapped = np.memmap(path / "matrix", matrix.dtype, "w+", shape=matrix.shape)
    mapped[:] = matrix
    return mapped


def on_square(kind):
    """Split over both axes of a mesh, where sizes allow that."""

    def placed(_, matrix):
        axes = [
            None if n % 2 else name for n, name in zip(matrix.shape, "ab", strict=True)
        ]
        sharding = NamedSharding(square(kind), PartitionSpec(*axes))
        return jax.device_put(matrix, sharding)

    return placed


def never_formed(kernel=laplace, mesh=None, **options):
    return lambda _, x1, x2=None, **noise: eqt.GramOperator(
        kernel, x1, x2, mesh=mesh and mesh(), **options, **noise
    )


class Slices:
    """A matrix that has slices and nothing else."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype = matrix, matrix.shape, matrix.dtype

    def __getitem__(self, index):
        return self.matrix[index]


def in_store(path, x1, x2=None, **noise):
    stored = eqt.gram(laplace, x1, x2, store=path / "store", tile=4)
    return eqt.GramOperator(stored, **noise)


# Operators of `laplace`: from a folder, batches and noise.
OPERATORS = {
    "in slices": held(lambda _, matrix: Slices(np.asarray(matrix))),
    "formed on an explicit square": held(on_square("explicit")),
    "in tiles": never_formed(tile=3),
    "on an explicit square": never_formed(tile=2, mesh=lambda: square("explicit")),
    "formed on a square": held(on_square("auto")),
    "in a store": in_store,
    "on disk": held(on_disk),
    "formed": held(lambda _, matrix: matrix),
    "never formed": never_formed(),
    "on a line": never_formed(tile=2, mesh=line),
}


def decaying(n, seed=0, power=2.0, noise=1e-2):
    """A positive matrix whose eigenvalues fall, as those of kernels do."""
    vectors, _ = jnp.linalg.qr(jr.normal(jr.key(seed), (n, n), DTYPE))
    values = (1.0 + jnp.arange(n, dtype=DTYPE)) ** -power * n
    matrix = (vectors * values[None]) @ vectors.T
    return eqt.GramOperator((matrix + matrix.T) / 2, noise=noise)


def targets(n, columns, rank, seed=1):
    """Right-hand sides of this rank."""
    key1, key2 = jr.split(jr.key(seed))
    return jr.normal(key1, (n, rank), DTYPE) @ jr.normal(key2, (rank, columns), DTYPE)


def condition_number(preconditioner, operator):
    """Of a matrix once it is preconditioned."""
    there = preconditioner.root_inverse_transposed
    values = jnp.linalg.eigvalsh(there(there(operator.as_matrix()).T))
    return values[-1] / values[0]
