"""Infinitely wide networks as estimators of scikit-learn.

They are imported from here, `from eqtangents.estimators import NTKRegressor`, and need
scikit-learn: `pip install 'eqtangents[sklearn]'`.
"""

import typing as _typing

from eqtangents._other_names import names_told as _names_told
from eqtangents.estimators._classifiers import (
    NNGPClassifier as NNGPClassifier,
    NTKClassifier as NTKClassifier,
)
from eqtangents.estimators._regressors import (
    NNGPRegressor as NNGPRegressor,
    NTKRegressor as NTKRegressor,
)


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__)
