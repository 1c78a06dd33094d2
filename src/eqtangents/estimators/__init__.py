"""Infinitely wide networks as estimators of scikit-learn.

They are imported from here, `from eqtangents.estimators import NTKRegressor`, and need
scikit-learn: `pip install 'eqtangents[sklearn]'`.
"""

from eqtangents.estimators._classifiers import (
    NNGPClassifier as NNGPClassifier,
    NTKClassifier as NTKClassifier,
)
from eqtangents.estimators._regressors import (
    NNGPRegressor as NNGPRegressor,
    NTKRegressor as NTKRegressor,
)
