"""Pairs of Gaussians to try a dual activation at, and how errors are told."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from eqtangents.duals import AbstractDual
from eqtangents.duals._sampled import SampledFunction


EXPECTATIONS = "E f(u) f(v)", "E f'(u) f'(v)"
_JUMP = 1e-5  # the size of a jump, relative to the function
_PAIRS_AT_ONCE = 64  # in one evaluation: always as many, so that it compiles once


class Traits(NamedTuple):
    """A function, and whether it or its slope jumps anywhere."""

    function: SampledFunction | None
    breaks: tuple[float, ...]
    jumps: bool
    kinks: bool

    @classmethod
    def of(cls, function: Callable | None, breaks: Sequence[float]) -> "Traits":
        """Look at a function on both sides of its breaks."""
        if function is None:
            return cls(None, (), jumps=False, kinks=True)
        sampled = SampledFunction(function)
        at = np.asarray(breaks, float)
        step = 1e-7 * (1 + np.abs(at))
        sizes = [np.abs(part).max() for part in sampled(np.linspace(-4.95, 5, 200))]
        jump, kink = (
            bool(np.any(np.abs(above - below) > _JUMP * size))
            for above, below, size in zip(
                sampled(at + step), sampled(at - step), sizes, strict=True
            )
        )
        return cls(sampled, tuple(breaks), jump, jump or kink)

    @property
    def bent_at_zero(self) -> bool:
        """Whether the function or its slope may jump at zero."""
        return self.kinks and bool((np.abs(np.asarray(self.breaks)) < 1e-6).any())


class GaussianPairs(NamedTuple):
    """Covariances and variances, one of each for every pair."""

    cov: Float[np.ndarray, " n"]
    var1: Float[np.ndarray, " n"]
    var2: Float[np.ndarray, " n"]

    @classmethod
    def of(
        cls, variances: Sequence[float], correlations: Sequence[float]
    ) -> "GaussianPairs":
        """Every variance with every other, at every correlation."""
        grid = np.meshgrid(variances, variances, correlations, indexing="ij")
        var1, var2, correlation = (a.ravel().astype(float) for a in grid)
        return cls(correlation * np.sqrt(var1 * var2), var1, var2)


def agree(
    law: str,
    pairs: GaussianPairs,
    came: Array | np.ndarray,
    expected: Array | np.ndarray,
    scale: float | np.ndarray,
    rtol: float,
) -> None:
    """Raise unless numbers agree for all pairs, relative to some size."""
    came, expected, scale = np.broadcast_arrays(
        *(np.asarray(a, float) for a in (came, expected, scale))
    )
    with np.errstate(invalid="ignore"):
        error = np.abs(came - expected) / np.maximum(scale, 1e-30)
    error = np.where(np.isfinite(came) & np.isfinite(expected), error, np.inf)
    worst = np.unravel_index(int(error.argmax()), error.shape)
    if error[worst] <= rtol:
        return
    cov, var1, var2 = (float(a[worst[-1]]) for a in pairs)
    raise AssertionError(
        f"{law}: at cov = {cov:.6g}, var1 = {var1:.6g}, var2 = {var2:.6g} it is "
        f"{came[worst]:.9g}, but should be {expected[worst]:.9g}. It is off by "
        f"{error[worst]:.1e} of {scale[worst]:.3g}, where {rtol:.0e} is allowed."
    )


@eqx.filter_jit
def evaluate_dual(
    dual: AbstractDual, m: Float[Array, "3 n"]
) -> tuple[Array, Array, Array]:
    """Both expectations, and the diagonal for the first variances, compiled."""
    return *dual(*m), dual.diagonal(m[1])


def all_moments(
    dual: AbstractDual, pairs: GaussianPairs
) -> list[Float[np.ndarray, " n"]]:
    """Both expectations, and the diagonal for `var1`, of any number of pairs."""
    n = pairs.cov.size
    padded = np.stack(
        [np.resize(a, -(-n // _PAIRS_AT_ONCE) * _PAIRS_AT_ONCE) for a in pairs]
    )
    parts = [
        evaluate_dual(dual, jnp.asarray(part))
        for part in np.split(padded, padded.shape[1] // _PAIRS_AT_ONCE, 1)
    ]
    return [np.concatenate(a)[:n].astype(float) for a in zip(*parts, strict=True)]


def expectations(dual: AbstractDual, pairs: GaussianPairs) -> Float[np.ndarray, "2 n"]:
    """`E f(u) f(v)` and `E f'(u) f'(v)` of pairs."""
    return np.stack(all_moments(dual, pairs)[:2])


def diagonal_of(dual: AbstractDual, v: Float[np.ndarray, " n"]) -> np.ndarray:
    """The method `diagonal` at some variances."""
    return all_moments(dual, GaussianPairs(v, v, v))[2]


def root_norms(dual: AbstractDual, pairs: GaussianPairs) -> Float[np.ndarray, "2 n"]:
    """The root of the product of both expectations at equal inputs, on either side."""
    left, right = (
        np.abs(expectations(dual, GaussianPairs(v, v, v))) for v in pairs[1:]
    )
    return np.sqrt(left * right)
