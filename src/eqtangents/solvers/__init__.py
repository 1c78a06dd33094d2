"""Kernels larger than memory: operators, solvers, preconditioners, determinants."""

import typing as _typing

from eqtangents._other_names import names_told as _names_told
from eqtangents.solvers._backing import HostMatrix as HostMatrix
from eqtangents.solvers._block_cg import BlockResult as BlockResult
from eqtangents.solvers._cholesky import Cholesky as Cholesky
from eqtangents.solvers._evidence import (
    Bounds as Bounds,
    log_density as log_density,
    log_determinant as log_determinant,
    posterior_variance as posterior_variance,
)
from eqtangents.solvers._feature_preconditioner import (
    feature_preconditioner as feature_preconditioner,
)
from eqtangents.solvers._features import random_features as random_features
from eqtangents.solvers._low_rank import LowRank as LowRank
from eqtangents.solvers._operator import GramOperator as GramOperator
from eqtangents.solvers._pivots import nystroem as nystroem, rp_cholesky as rp_cholesky
from eqtangents.solvers._preconditioner import (
    AbstractPreconditioner as AbstractPreconditioner,
)
from eqtangents.solvers._solve import (
    BlockCG as BlockCG,
    Solution as Solution,
    solve as solve,
)


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__)
