"""Kernels of every kind of backing, and systems of equations."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np

import eqtangents as eqt
from eqtangents import nn
from mesh_cases import line, square
from precision import DTYPE


def network(width=1.3, bias=0.2):
    hidden = nn.Linear(8, weight_std=jnp.asarray(width, DTYPE), bias_std=bias)
    return nn.Sequential([hidden, nn.Relu(), nn.Linear(1)])


def batch(n, seed=0, d=4):
    return jr.normal(jr.key(seed), (n, d), DTYPE)


def laplace(a, b):
    return jnp.exp(-jnp.sum(jnp.abs(a[:, None] - b[None]), -1))


def held(make):
    """An operator of the matrix that `make` makes of an array of NumPy."""

    def operator(path, x1, x2=None, **noise):
        return eqt.GramOperator(make(path, eqt.ntk(network(), x1, x2)), **noise)

    return operator


def on_disk(path, matrix):
    mapped = np.memmap(path / "matrix", matrix.dtype, "w+", shape=matrix.shape)
    mapped[:] = matrix
    return mapped


def never_formed(**options):
    return lambda _, x1, x2=None, **noise: eqt.GramOperator(
        network(), x1, x2, **options, **noise
    )


class Slices:
    """A matrix that has slices and nothing else."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype = matrix, matrix.shape, matrix.dtype

    def __getitem__(self, index):
        return self.matrix[index]


# Operators of the NTK of `network()`: from a folder, batches and noise.
OPERATORS = {
    "in tiles": never_formed(tile=3),
    "in slices": held(lambda _, matrix: Slices(np.asarray(matrix))),
    "on an explicit square": lambda *args, **noise: never_formed(
        tile=2, mesh=square("explicit")
    )(*args, **noise),
    "on disk": held(on_disk),
    "formed": held(lambda _, matrix: matrix),
    "never formed": never_formed(),
    "a function": lambda _, x1, x2=None, **noise: eqt.GramOperator(
        lambda a, b: eqt.ntk(network(), a, b), x1, x2, tile=4, **noise
    ),
    "on a line": lambda *args, **noise: never_formed(tile=2, mesh=line())(
        *args, **noise
    ),
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
