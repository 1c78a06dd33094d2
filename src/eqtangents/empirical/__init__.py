"""Kernels of networks of finite width, at the parameters they have."""

import typing as _typing

from eqtangents._other_names import names_told as _names_told

# These four register their rules.
from eqtangents.empirical import (
    _axes as _axes,
    _maps as _maps,
    _operator_rules as _operator_rules,
    _products as _products,
)
from eqtangents.empirical._choice import (
    Candidate as Candidate,
    Explanation as Explanation,
)
from eqtangents.empirical._cost import Cost as Cost
from eqtangents.empirical._estimates import (
    Estimate as Estimate,
    estimate_diagonal as estimate_diagonal,
    estimate_effective_rank as estimate_effective_rank,
    estimate_trace as estimate_trace,
)
from eqtangents.empirical._explain import explain_empirical_ntk as explain_empirical_ntk
from eqtangents.empirical._kernel import (
    empirical_kernel as empirical_kernel,
    empirical_nngp as empirical_nngp,
)
from eqtangents.empirical._ntk import (
    empirical_ntk as empirical_ntk,
    empirical_ntk_by_leaf as empirical_ntk_by_leaf,
)
from eqtangents.empirical._operator import NTKOperator as NTKOperator
from eqtangents.empirical._primitives import structured as structured
from eqtangents.empirical._views import (
    Dependence as Dependence,
    Factor as Factor,
    Label as Label,
    Part as Part,
    Root as Root,
    RowRange as RowRange,
    View as View,
    new_labels as new_labels,
    value_of as value_of,
)


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__)
