"""When rounding has spoiled a kernel too much to predict from it: one rule for all.

A kernel is positive semi-definite, so that a negative eigenvalue tells how large its
rounding is: about that much of every other eigenvalue is rounding too. To invert a
direction multiplies its rounding with the reciprocal of its eigenvalue. Hence:

- What is inverted needs noise that is `LARGE` times rounding.
- Without any noise, eigenvalues below rounding are not told from zero. A posterior,
  which inverts all of them, is refused. In training they are zero if all others are
  `LARGE` times larger, as of a kernel without full rank: nothing is learned along them.
  Else it is refused from when it would learn `1 / LARGE` of what there is to learn
  along an eigenvalue that large: at the latest in the end, where it inverts too, unless
  weights decay.
- Equations that are solved without an inverse, for any loss, have that much noise added
  where an eigenvalue is negative: errors would grow exponentially along it.
- Eigenvalues that are more negative than rounding can explain are always refused.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from eqtangents._types import Scalar
from eqtangents.predict._arguments import T, known, refuse
from eqtangents.predict._factored import cholesky_factor
from eqtangents.predict._rounding import (
    LARGE,
    allowance,
    largest_sum,
    needed_eigenvalue,
    rounding_of,
)
from eqtangents.predict._smallest_eigenvalue import smallest_eigenvalue


NOT_POSITIVE = """
The {n} x {n} matrix `k_train_train`, with the noise added to its diagonal, is not
positive definite in {dtype}{found}.

(a) If training examples repeat, or are nearly the same, add noise: {mend}.
(b) If the predictions must interpolate the targets, compute the kernel in float64.
""".strip()

_USUAL_NOISE = (
    "a usual start is\n    `relative_noise=1e-4` in float32, `relative_noise=1e-10` in "
    "float64 (outside of\n    `jax.jit`, this message says how much is needed)"
)

TOO_LONG = f"""
{NOT_POSITIVE}
(c) Train for less long, or with a `weight_decay`: rounding is learned only later.
""".strip()

# For what has no noise to be mended by.
NOT_SEMIDEFINITE = """
The {n} x {n} matrix `{name}` is not positive semi-definite, not up to rounding
in {dtype} either{found}.

If it was computed by one kernel, of one batch, compute it in float64. Sums and
products of kernels are kernels, differences are not.
""".strip()

NOT_SAMPLED = """
The {n} x {n} covariance of the test outputs is not positive semi-definite{found}.
Are `k_test_train` and `k_test_test` blocks of the kernel that `k_train_train` is of?
""".strip()


def refuse_indefinite(
    value: T,
    smallest: Float[Array, ""],
    floor: Float[Array, ""],
    kernel: Float[Array, "rows rows"],
    noise: Float[Array, " rows"],
    *,
    inverted: bool = False,
    scale: Scalar = 0.0,
    message: str = NOT_POSITIVE,
    name: str = "k_train_train",
) -> T:
    """The same value, unless the kernel is too far from positive semi-definite for it.

    **Arguments:**

    - `value`: what was computed of the kernel.
    - `smallest`: the least eigenvalue of the kernel with its noise.
    - `floor`: the least noise, which is what `smallest` exceeds without rounding.
    - `kernel`, `noise`: for how large rounding must be, and for the message.
    - `inverted`: whether all directions are inverted, also without any noise.
    - `scale`: size of the terms whose difference the kernel is, if it is one.
    - `message`, `name`: what to say, and of which argument.

    **Raises:** `RuntimeError`, with the noise that mends it if the values are known.
    """
    kernel, noise, smallest, floor = lax.stop_gradient((kernel, noise, smallest, floor))
    refused = ~(smallest > needed_eigenvalue(kernel, floor, inverted, scale))
    return _refuse_with_mend(value, refused, kernel, noise, message, name)


def _refuse_with_mend(
    value: T,
    refused: Bool[Array, ""],
    kernel: Float[Array, "rows rows"],
    noise: Float[Array, " rows"],
    message: str,
    name: str = "k_train_train",
) -> T:
    """The same value, or this message, with what is known of the kernel."""
    now = known(refused)
    if now is None:
        text = _message_about(message, kernel, "", _USUAL_NOISE, name)
        return refuse(value, (refused, text))
    if not now:
        return value
    try:
        found, mend = _diagnosis(kernel, noise)
    except jax.errors.ConcretizationTypeError:
        found, mend = "", _USUAL_NOISE
    raise RuntimeError(_message_about(message, kernel, found, mend, name))


def _message_about(
    message: str, kernel: Array, found: str, mend: str, name: str
) -> str:
    n, dtype = kernel.shape[0], kernel.dtype
    return message.format(n=n, dtype=dtype, found=found, mend=mend, name=name)


def _diagnosis(kernel: Array, noise: Array) -> tuple[str, str]:
    """What is wrong, and the noise that mends it, in words."""
    n, eps = kernel.shape[0], float(jnp.finfo(kernel.dtype).eps)
    matrix = np.asarray(kernel, np.float64) + np.diag(np.asarray(noise, np.float64))
    values = np.linalg.eigvalsh(matrix)
    floor = float(np.min(np.asarray(noise), initial=np.inf))
    rounding = max(floor - float(values[0]), 0)
    found = f":\nits smallest eigenvalue is {values[0]:.3g}"
    if LARGE * rounding < floor:
        found = (
            f", as a factorisation\nrounds it, although its smallest eigenvalue is "
            f"{values[0]:.3g}. With many examples,\nsteps round less: pass "
            "`eqtangents.GramOperator(k_train_train, noise=...)`"
        )
    least = max(1.2 * LARGE * rounding - floor, 0) + eps * abs(float(values[-1]))
    if not least > 0:  # a kernel of zeros
        return found, _USUAL_NOISE
    # How much a factorisation rounds is between this and `n` times as much.
    tried = [least * 2.0**i for i in range(n.bit_length() + 1)]
    more = next((one for one in tried if _is_enough(kernel, noise + one)), tried[-1])
    return found, f"`noise={more:.2g}` more\n    would mend it"


def _is_enough(kernel: Array, noise: Array) -> bool:
    """Whether a factorisation with this noise is one to predict with."""
    own = jnp.asarray(noise, kernel.dtype)
    needed = needed_eigenvalue(kernel, jnp.min(own), True, 0.0)
    return bool(smallest_eigenvalue(cholesky_factor(kernel, own), needed) > needed)


@jax.jit
def _least_or_above(
    kernel: Float[Array, "n n"], shift: Float[Array, ""]
) -> Float[Array, ""]:
    """The least eigenvalue, or minus this shift if it is above that.

    That a Cholesky factor of the shifted matrix exists tells so.
    """
    if not kernel.size:
        return jnp.asarray(jnp.inf, kernel.dtype)
    factor = cholesky_factor(kernel, shift[None])
    return lax.cond(
        jnp.isfinite(factor[-1, -1]),
        lambda: -shift,
        lambda: jnp.linalg.eigvalsh(kernel)[0],
    )


@jax.jit
def _least_or_large(
    kernel: Float[Array, "n n"], enough: Float[Array, ""]
) -> Float[Array, ""]:
    """The least eigenvalue, or what it is at most if it is certainly above `enough`."""
    if not kernel.size:
        return jnp.asarray(jnp.inf, kernel.dtype)
    found = smallest_eigenvalue(
        cholesky_factor(kernel, jnp.zeros(1, kernel.dtype)), enough
    )
    return lax.cond(
        found > enough, lambda: found, lambda: jnp.linalg.eigvalsh(kernel)[0]
    )


def refuse_beyond_rounding(
    kernel: Float[Array, "n n"], name: str
) -> Float[Array, "n n"]:
    """The same kernel, unless it has eigenvalues more negative than rounding makes.

    **Cost:** a Cholesky factorisation; where that does not tell, all eigenvalues.
    """
    fixed = lax.stop_gradient(kernel)
    # Half of what is forgiven.
    shift = allowance(kernel.shape[0]) / 2 * largest_sum(fixed)
    smallest = _least_or_above(fixed, shift)
    return _unless_beyond_rounding(kernel, smallest, name)


def refuse_and_mend(kernel: Float[Array, "n n"], name: str) -> Float[Array, "n n"]:
    """The kernel with as much more of its diagonal as makes it one, if rounding did.

    It is refused as by `refuse_beyond_rounding`. Nothing is added if no eigenvalue is
    negative; else the rounding of the smallest is too.

    **Cost:** as `refuse_beyond_rounding`, which tells less often here.
    """
    fixed = lax.stop_gradient(kernel)
    smallest = _least_or_large(fixed, LARGE * rounding_of(fixed))
    kernel = _unless_beyond_rounding(kernel, smallest, name)
    more = jnp.where(smallest < 0, rounding_of(fixed) - smallest, 0)
    return kernel + more * jnp.eye(kernel.shape[0], dtype=kernel.dtype)


def _unless_beyond_rounding(
    kernel: Float[Array, "n n"], smallest: Float[Array, ""], name: str
) -> Float[Array, "n n"]:
    fixed = lax.stop_gradient(kernel)
    none, noise = jnp.zeros((), kernel.dtype), jnp.zeros(kernel.shape[0], kernel.dtype)
    return refuse_indefinite(
        kernel, smallest, none, fixed, noise, message=NOT_SEMIDEFINITE, name=name
    )


def cholesky_of(
    kernel: Float[Array, "rows rows"], noise: Float[Array, "rows groups"]
) -> Float[Array, "groups rows rows"]:
    """Cholesky factors of the kernel with the noise of each group of outputs.

    **Raises:** `RuntimeError` if one of them is not positive definite beyond rounding.
    """
    matrices = kernel[None] + jax.vmap(jnp.diag, 1)(noise)
    # Not `cho_factor`: this one symmetrises first, so that the gradient with respect
    # to the kernel is symmetric too.
    return refuse_spoiled(jnp.linalg.cholesky(matrices), kernel, noise)


def refuse_spoiled(
    cholesky: Float[Array, "groups rows rows"],
    kernel: Float[Array, "rows rows"],
    noise: Float[Array, "rows groups"],
) -> Float[Array, "groups rows rows"]:
    """The same Cholesky factors, of the kernel with its noise, if they can be used."""
    if not cholesky.size:
        return cholesky
    smallest, floor, own = _worst(*lax.stop_gradient((cholesky, kernel, noise)))
    return refuse_indefinite(cholesky, smallest, floor, kernel, own, inverted=True)


@jax.jit
def _worst(
    cholesky: Float[Array, "groups rows rows"],
    kernel: Float[Array, "rows rows"],
    noise: Float[Array, "rows groups"],
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " rows"]]:
    """Least eigenvalue, and noise, of the group that is worst against what it needs."""
    floor = jnp.min(noise, axis=0)
    needed = jax.vmap(lambda f: needed_eigenvalue(kernel, f, True, 0.0))(floor)
    smallest = jax.vmap(smallest_eigenvalue)(cholesky, needed)
    margin = smallest - needed
    worst = jnp.argmin(margin)  # NaN counts as less than all numbers
    return smallest[worst], floor[worst], noise[:, worst]


def refuse_learned_rounding(
    times: Float[Array, " times"],
    learned: Float[Array, " times"],
    kernel: Float[Array, "rows rows"],
) -> Float[Array, " times"]:
    """The same times, unless training has learned from rounding by then.

    **Arguments:**

    - `times`: of training.
    - `learned`: the part that is learned along directions that are rounding.
    - `kernel`: the kernel of the training, without any noise.

    **Raises:** `RuntimeError`.
    """
    kernel, learned = lax.stop_gradient((kernel, learned))
    noise = jnp.zeros(kernel.shape[0], kernel.dtype)
    wrong = ~jnp.all(learned * LARGE <= 1)
    return _refuse_with_mend(times, wrong, kernel, noise, TOO_LONG)
