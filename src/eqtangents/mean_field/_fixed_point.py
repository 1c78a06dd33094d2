"""Where signals end up in deep networks, and how fast."""

from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from eqtangents._roots import bisected, implicit_root, newton, varying_as_result
from eqtangents.mean_field._block import SecondMoments


MomentMap: TypeAlias = Callable[[SecondMoments], SecondMoments]


class DepthScales(eqx.Module):
    r"""Over how many blocks signals forget: they approach their end like $e^{-l/\xi}$.

    A scale is infinite where the approach is slower than exponential, on a critical
    line, and not a number where signals grow without bound. By slopes that are negative
    signals approach their end from both sides in turn.

    **Attributes:**

    - `xi_q`: of the variance, $-1 / \log |\chi_q|$.
    - `xi_c`: of the correlation, $-1 / \log |\chi_c|$.
    - `xi_1`: of gradients, $1 / |\log \chi_1|$, that is of the NTK's largest
        eigenvalue.
    - `xi_star`: of the mean prediction of the NTK in the chaotic phase,
        $1 / (\log \chi_1 - \log \chi_c)$; infinite in the ordered phase.

    **Source:** Schoenholz et al. 2017, arXiv:1611.01232; Xiao et al. 2020,
    arXiv:1912.13053.
    """

    xi_q: Float[Array, "*batch"]
    xi_c: Float[Array, "*batch"]
    xi_1: Float[Array, "*batch"]
    xi_star: Float[Array, "*batch"]


class FixedPoint(eqx.Module):
    r"""The state that signals approach, and the slopes of the map there.

    **Attributes:**

    - `q`: the variance; infinite if it grows without bound, and then the rest are not
        numbers.
    - `c`: the correlation of two inputs that differ.
    - `chi_q`: $\partial q' / \partial q$.
    - `chi_1`: $\partial c' / \partial c$ at equal inputs. By it gradients grow for each
        block: above one is chaos, below is order. Jumps of a function, which gradients
        do not see, do not count, nor does the noise of dropout: with either, equal
        inputs part, and `c` is below one also where `chi_1` is.
    - `chi_c`: $\partial c' / \partial c$ at `c`.
    """

    q: Float[Array, "*batch"]
    c: Float[Array, "*batch"]
    chi_q: Float[Array, "*batch"]
    chi_1: Float[Array, "*batch"]
    chi_c: Float[Array, "*batch"]

    @property
    def depth_scales(self) -> DepthScales:
        """Over how many blocks the approach takes place."""
        slopes = self.chi_q, self.chi_c, self.chi_1
        log_q, log_c, log_1 = (jnp.log(jnp.abs(slope)) for slope in slopes)
        rates = -log_q, -log_c, jnp.abs(log_1), log_1 - log_c
        return DepthScales(*map(_depth_scale, rates))


def _depth_scale(rate: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    slower = rate <= 0
    return jnp.where(slower, jnp.inf, 1 / jnp.where(slower, 1, rate))


@eqx.filter_jit
def fixed_point(after: MomentMap, q0: Float[Array, ""]) -> FixedPoint:
    """The state that a signal of variance `q0` approaches."""
    q = _variance(after, q0)
    ends = jnp.isfinite(q)
    # A signal of zero has no correlation: its slopes are those of one that vanishes.
    near = jnp.maximum(jnp.where(ends, q, 1), jnp.finfo(q.dtype).tiny ** 0.5)
    chi_1 = _chi(after, near, jnp.zeros_like(q))
    z = _deficit_at_the_end(after, near, chi_1)
    chi_q = derivative_at(lambda q: after(SecondMoments.equal(q)).variance1, near)
    rest = (1 - z, chi_q, chi_1, _chi(after, near, z))
    return FixedPoint(q, *(jnp.where(ends, x, jnp.nan) for x in rest))


def _variance(after: MomentMap, q0: Float[Array, ""]) -> Float[Array, ""]:
    """The variance after infinitely many blocks: infinite if it grows for ever.

    It is not a number if it is none after one block.
    """
    of_variance = lambda q: after(SecondMoments.equal(q)).variance1
    solve = lambda excess, start: _end_of_variance(of_variance, excess, start)
    excess = lambda q: of_variance(q) - q
    root, (known, end) = implicit_root(excess, q0, solve)
    return jnp.where(known > 0, root, end)


def _end_of_variance(
    of_variance: Callable[[Float[Array, ""]], Float[Array, ""]],
    excess: Callable[[Float[Array, ""]], Float[Array, ""]],
    q0: Float[Array, ""],
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
    """A root of the excess; whether it is the end, as 0 or 1; what is if it is not.

    Some blocks bring the variance near to where the signal goes, if maps have several
    fixed points, and Newton's method does the rest.
    """
    step = lambda q, _: (after_one := of_variance(q), after_one)
    q0 = varying_as_result(of_variance, q0)
    near, passed = lax.scan(step, q0, None, length=_BLOCKS)
    eps = float(jnp.finfo(q0.dtype).eps)
    start = jnp.where(jnp.isfinite(near), near, jnp.ones_like(near))
    root = newton(excess, start, _STEPS)
    found = lambda q: (q >= 0) & (jnp.abs(excess(q)) <= 64 * eps * q)
    # Where all variances are fixed, as for a critical `Relu`, the root is any other.
    # Signals do not end at one that they move away from.
    same = jnp.abs(root - near) <= eps**0.5 * near
    ahead = excess(near) * (root - near) >= 0
    # Newton's method may miss a root at zero, as it steps over it.
    vanishes = (excess(near) < 0) & (of_variance(jnp.zeros_like(near)) == 0)
    marginal = jnp.where(found(near), near, jnp.where(vanishes, 0.0, jnp.inf))
    first = passed[0]
    end = jnp.where(jnp.isnan(first), first, marginal)
    known = found(root) & jnp.isfinite(near) & (same | ahead & ~found(near))
    one = jnp.ones_like(root)
    return jnp.where(known, root, one), (jnp.where(known, one, 0), end)


def _deficit(
    after: MomentMap, q: Float[Array, ""], z: Float[Array, ""]
) -> Float[Array, ""]:
    return after(SecondMoments.correlated(q, q, z)).deficit


def _chi(
    after: MomentMap, q: Float[Array, ""], z: Float[Array, ""]
) -> Float[Array, ""]:
    """The slope of the covariance in the covariance, which is that of correlations."""
    state = SecondMoments.correlated(q, q, z)
    of_covariance = lambda k: after(state.with_covariance(k)).covariance
    return derivative_at(of_covariance, state.covariance)


def _deficit_at_the_end(
    after: MomentMap, q: Float[Array, ""], chi_1: Float[Array, ""]
) -> Float[Array, ""]:
    """One less the correlation that signals approach: zero unless equal ones part.

    Mostly zero is a root of the map, so that the other one is sought as a root of
    `z' / z - 1`, which falls in `z`. Noise, as of dropout, and jumps, as of `Sign`,
    part equal signals by far more than the slope there.
    """
    eps = jnp.finfo(q.dtype).eps
    ratio = lambda z: _deficit(after, q, z) / z
    parts = (chi_1 > 1) | (ratio(jnp.full_like(q, eps)) > 2)

    def excess(z: Float[Array, ""]) -> Float[Array, ""]:
        # There may be no root, but the search has to have one.
        return jnp.where(parts, ratio(z) - 1, 0.5 - z)

    def solve(
        excess: Callable[[Float[Array, ""]], Float[Array, ""]], start: Float[Array, ""]
    ) -> tuple[Float[Array, ""], None]:
        return bisected(excess, jnp.ones_like(start), jnp.full_like(start, eps)), None

    root, _ = implicit_root(excess, jnp.full_like(q, 0.5), solve)
    return jnp.where(parts, root, jnp.zeros_like(root))


def derivative_at(
    function: Callable[[Float[Array, ""]], Float[Array, ""]], x: Float[Array, ""]
) -> Float[Array, ""]:
    """The derivative of a function of one number."""
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


_BLOCKS, _STEPS = 64, 64
