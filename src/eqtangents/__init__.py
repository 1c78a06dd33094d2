"""Neural networks of finite and infinite width, on JAX and Equinox."""

import typing as _typing
from importlib import metadata as _metadata

from eqtangents import (
    duals as duals,
    empirical as empirical,
    mean_field as mean_field,
    nn as nn,
    predict as predict,
    solvers as solvers,
    theory as theory,
)
from eqtangents._gram import (
    Progress as Progress,
    StoredGram as StoredGram,
    gram as gram,
)
from eqtangents._kernel import (
    Kernel as Kernel,
    kernel as kernel,
    kernel_diagonal as kernel_diagonal,
    nngp as nngp,
    nngp_diagonal as nngp_diagonal,
    ntk as ntk,
    ntk_diagonal as ntk_diagonal,
)
from eqtangents._linearization import (
    TaylorFunction as TaylorFunction,
    TaylorModel as TaylorModel,
    linearize as linearize,
    taylorize as taylorize,
)
from eqtangents._monte_carlo import (
    monte_carlo as monte_carlo,
    running_monte_carlo as running_monte_carlo,
)
from eqtangents._ntk_by_leaf import ntk_by_leaf as ntk_by_leaf
from eqtangents._other_names import (
    OF_PACKAGE as _OF_PACKAGE,
    names_told as _names_told,
)
from eqtangents._traced import (
    from_equinox as from_equinox,
    from_function as from_function,
)
from eqtangents.empirical import (
    Estimate as Estimate,
    Explanation as Explanation,
    NTKOperator as NTKOperator,
    empirical_kernel as empirical_kernel,
    empirical_nngp as empirical_nngp,
    empirical_ntk as empirical_ntk,
    empirical_ntk_by_leaf as empirical_ntk_by_leaf,
    estimate_diagonal as estimate_diagonal,
    estimate_effective_rank as estimate_effective_rank,
    estimate_trace as estimate_trace,
    explain_empirical_ntk as explain_empirical_ntk,
)
from eqtangents.solvers import (
    GramOperator as GramOperator,
    rp_cholesky as rp_cholesky,
    solve as solve,
)


try:
    __version__ = _metadata.version("eqtangents")
except _metadata.PackageNotFoundError:  # sources that are not installed
    __version__ = "unknown"


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__, _OF_PACKAGE)
