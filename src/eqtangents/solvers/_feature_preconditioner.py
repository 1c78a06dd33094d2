"""A preconditioner of features whose inner products are close to a kernel."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from eqtangents._arguments import check_key, described
from eqtangents._products import matmul
from eqtangents.solvers._backing import ColumnBlock
from eqtangents.solvers._low_rank import LowRank
from eqtangents.solvers._operator import GramOperator, noise_of
from eqtangents.solvers._pivots import check_symmetric


# So many vectors, of which two products say how large a matrix is.
VECTORS = 8


def feature_preconditioner(
    operator: GramOperator, features: Float[Array, "n rank"], key: PRNGKeyArray
) -> LowRank:
    r"""A preconditioner by features, which know of their own error.

    $$P = F F^\top + \operatorname{diag} \sigma^2 + \varepsilon I, \qquad
    \varepsilon \approx \lVert K - F F^\top \rVert$$

    The condition number is at most $1 + 2 \varepsilon / \min \sigma^2$, the least bound
    of any multiple of the identity: with none, directions that features have and the
    kernel has not are taken for large, and steps are more than without preconditioner.
    Features help where they are wrong by less than the kernel is large. Columns of the
    kernel, `eqtangents.rp_cholesky`, are as a rule a closer approximation of the same
    rank; features of a network take no kernels but those of two products.

    **Arguments:**

    - `operator`: a kernel with its noise, be it 0.
    - `features`: $F$, of `eqtangents.solvers.random_features` say.
    - `key`: draws vectors that tell the error.

    **Raises:** `ValueError` if the operator is of two batches, or there are not as many
    rows; `TypeError` if an argument is of another kind.

    **Cost:** two products with the operator, and of the order of `n rank**2`
    multiply-adds.

    **Source:** Halko, Martinsson & Tropp 2011, for the norm.
    """
    check_symmetric(operator)
    check_key("`key`", key)
    features = jnp.asarray(features, operator.dtype)
    if features.ndim != 2 or features.shape[0] != operator.shape[0]:
        raise ValueError(
            f"`features` is {described(features)}, but the operator has "
            f"{operator.shape[0]} rows: the features of one example in each are needed."
        )
    error = _error_of(operator, features, key)
    return LowRank(features, noise_of(operator) + error)


@eqx.filter_jit
def _error_of(
    operator: GramOperator, features: Float[Array, "n rank"], key: PRNGKeyArray
) -> Float[Array, ""]:
    """About the spectral norm, and never more."""

    def product(columns: ColumnBlock) -> ColumnBlock:
        return operator.backing.multiply(columns) - matmul(
            features, matmul(features.T, columns)
        )

    n = features.shape[0]
    drawn = jr.normal(key, (n, min(n, VECTORS)), features.dtype)
    basis, _ = jnp.linalg.qr(product(drawn))
    return jnp.linalg.norm(product(basis), 2)
