"""Kernels of networks of finite width, at the parameters they have."""

from eqtangents.empirical._choice import Explanation as Explanation
from eqtangents.empirical._estimates import (
    Estimate as Estimate,
    estimate_diagonal as estimate_diagonal,
    estimate_effective_rank as estimate_effective_rank,
    estimate_trace as estimate_trace,
)
from eqtangents.empirical._kernel import (
    empirical_kernel as empirical_kernel,
    empirical_nngp as empirical_nngp,
    empirical_ntk as empirical_ntk,
    empirical_ntk_by_leaf as empirical_ntk_by_leaf,
    explain_empirical_ntk as explain_empirical_ntk,
)
from eqtangents.empirical._operator import NTKOperator as NTKOperator
