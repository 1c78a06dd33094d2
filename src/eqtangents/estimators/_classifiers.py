"""Classification by infinitely wide networks."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from eqtangents.estimators._estimator import (
    OF_ENSEMBLE,
    OF_POSTERIOR,
    AbstractEstimator,
    ArrayLike,
    base,
    multiclass,
    precision_of,
    validation,
)
from eqtangents.predict import class_probabilities, encode_labels


class AbstractClassifier(base.ClassifierMixin, AbstractEstimator):
    """A network with an output for each class, the largest for the right one."""

    def fit(self, X: ArrayLike, y: ArrayLike) -> "AbstractClassifier":
        """Learn from examples.

        **Arguments:**

        - `X`: inputs, `(n, features)`, or as `net` takes them, `(n, channels,
            *spatial)`.
        - `y`: their classes, `(n,)`, of any kind.

        **Returns:** the estimator itself.
        """
        X, y = self._checked(X, y)
        multiclass.check_classification_targets(y)
        y = validation.column_or_1d(y, warn=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        with precision_of(X):
            targets = encode_labels(jnp.asarray(labels), len(self.classes_), X.dtype)
        self._learn(X, np.asarray(targets))
        return self

    def predict(self, X: ArrayLike) -> Any:
        """The class of each input: that of the largest mean output."""
        mean, _ = self._moments(X, wants_variance=False)
        return self.classes_[mean.argmax(axis=1)]

    def predict_proba(self, X: ArrayLike) -> Any:
        """For each input and class, the probability that its output is the largest."""
        mean, variance = self._moments(X, wants_variance=True)
        assert variance is not None, "it was asked for"
        # Outputs are of order one: a variance below their rounding is one that is lost.
        variance = np.maximum(variance + self._noise(), np.finfo(mean.dtype).eps)
        with precision_of(mean):
            moments = jnp.asarray(mean), jnp.asarray(variance)
            return np.asarray(class_probabilities(*moments))


class NTKClassifier(AbstractClassifier):
    r"""Infinitely wide networks, trained on classes as regression.

    Each class has an output, whose targets are $1 - 1/C$ for the right one of $C$
    classes and $-1/C$ for the others; training goes on to the end, as for
    `NTKRegressor`, whose arguments and precision it has. `predict` tells the class with
    the largest mean output, and `predict_proba` the share of networks in the ensemble
    whose output is the largest.

    ```python
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_score

    from eqtangents.estimators import NTKClassifier

    X, y = load_digits(return_X_y=True)
    scores = cross_val_score(NTKClassifier(depth=2), X[:500] / 16, y[:500])
    assert scores.mean() > 0.9
    ```

    **Arguments:**

    - `net`, `depth`, `activation`, `weight_std`, `bias_std`, `noise`, `relative_noise`:
        as for `NTKRegressor`.

    What `fit` finds: `classes_`; `net_`; `predictor_`, a `FromNetwork` of a
    `GaussianProcess` with the NTK.

    **Raises:** as `NTKRegressor` does; `ValueError` if targets are no classes.

    **Cost:** as `NTKRegressor`, whatever the number of classes; `predict_proba` as its
    `return_std`.

    **Source:** Lee et al. 2019, arXiv:1902.06720; for the targets Lee et al. 2018,
    arXiv:1711.00165, section 3.
    """

    _inference = OF_ENSEMBLE

    def _noise(self) -> Any:
        return 0.0


class NNGPClassifier(AbstractClassifier):
    r"""The posterior of an infinitely wide network, of classes as regression.

    Each class has an output, with the targets of `NTKClassifier`, and these are what
    the network's prior is conditioned on, as in `NNGPRegressor`. `predict` tells the
    class with the largest mean output, and `predict_proba` the probability that its
    output with noise is the largest.

    ```python
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from eqtangents.estimators import NNGPClassifier

    parts = train_test_split(*load_iris(return_X_y=True), random_state=0)
    x_train, x_test, y_train, y_test = parts
    model = make_pipeline(StandardScaler(), NNGPClassifier(activation="erf"))
    assert model.fit(x_train, y_train).score(x_test, y_test) > 0.9
    ```

    **Arguments:**

    - `net`, `depth`, `activation`, `weight_std`, `bias_std`, `noise`, `relative_noise`:
        as for `NNGPRegressor`.

    What `fit` finds: `classes_`; `net_`; `predictor_`, a `FromNetwork` of a
    `GaussianProcess`.

    **Raises:** as `NTKClassifier` does.

    **Cost:** as `NNGPRegressor`, whatever the number of classes.

    **Source:** Lee et al. 2018, arXiv:1711.00165, section 3; for the probabilities
    Girolami & Rogers 2006, equation 6.
    """

    _inference = OF_POSTERIOR

    def _noise(self) -> Any:
        return np.asarray(self.predictor_.predictor.data.noise)[0]
