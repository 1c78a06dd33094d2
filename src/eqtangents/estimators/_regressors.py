"""Regression by infinitely wide networks."""

from typing import Any

import numpy as np

from eqtangents.estimators._estimator import (
    OF_ENSEMBLE,
    OF_POSTERIOR,
    AbstractEstimator,
    ArrayLike,
    base,
)


class AbstractRegressor(base.RegressorMixin, AbstractEstimator):
    """A network of which a target of mean 0 and variance 1 is an output, or several."""

    def __sklearn_tags__(self) -> Any:
        tags = base.RegressorMixin.__sklearn_tags__(self)
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> "AbstractRegressor":
        """Learn from examples.

        **Arguments:**

        - `X`: inputs, `(n, features)`, or as `net` takes them, `(n, channels,
            *spatial)`.
        - `y`: targets, `(n,)`, or `(n, outputs)`.

        **Returns:** the estimator itself.
        """
        X, y = self._checked(X, y, multi_output=True, y_numeric=True)
        targets = np.asarray(y, X.dtype)
        self.mean_, deviation = targets.mean(axis=0), targets.std(axis=0)
        self.scale_ = np.where(deviation > 0, deviation, 1).astype(X.dtype)
        self._learn(X, (targets - self.mean_) / self.scale_)
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Targets of new inputs: means, and with `return_std` a pair with deviations.

        **Arguments:**

        - `X`: inputs, as for `fit`.
        - `return_std`: whether to return how uncertain the means are, too.

        **Returns:** an array of the shape that targets had, or two of them.
        """
        mean, variance = self._moments(X, wants_variance=return_std)
        mean = self.mean_ + self.scale_ * mean
        if variance is None:
            return mean
        return mean, np.multiply.outer(np.sqrt(variance), self.scale_)


class NTKRegressor(AbstractRegressor):
    r"""Infinitely wide networks, trained to the end by gradient descent.

    The mean of an ensemble of them, which differ in their initial parameters, is kernel
    regression with the neural tangent kernel $\Theta$,

    $$f(x) = \Theta(x, X) (\Theta(X, X) + \sigma^2 I)^{-1} y$$

    and `predict(X, return_std=True)` tells how much they differ.

    ```python
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from eqtangents.estimators import NTKRegressor

    X, y = load_diabetes(return_X_y=True)
    model = make_pipeline(StandardScaler(), NTKRegressor(relative_noise=1.0))
    grid = {"ntkregressor__depth": [1, 2, 4], "ntkregressor__weight_std": [1.0, 1.4]}
    search = GridSearchCV(model, grid).fit(X, y)
    assert search.best_score_ > 0.4
    ```

    Targets are standardised for training: they have the mean 0 and the variance 1, each
    output on its own, and predictions are given in their own units.

    Computed in the precision of `X`: in float64, as most arrays of NumPy are, whatever
    JAX is configured to, or in float32.

    **Arguments:**

    - `net`: the network; by default a fully-connected one with the hyperparameters
        that follow. It may be a network of `eqtangents.nn`, or a function that returns
        one and takes some of those four by name: `def net(depth, weight_std): ...`.
        Standard deviations are given to it as arrays.
    - `depth`: how many hidden layers there are; without any it is linear.
    - `activation`: a nonlinearity of `eqtangents.nn`, or its name: `"relu"`, `"erf"`,
        `"gelu"`, `"tanh"`.
    - `weight_std`: $\sigma_w$ of all hidden layers; that of the readout is 1.
    - `bias_std`: $\sigma_b$ of all layers, or `None` for no biases.
    - `noise`: $\sigma^2$, a ridge on the kernel.
    - `relative_noise`: more of it, in units of the mean of the kernel's diagonal.

    What `fit` finds: `net_`, the network; `predictor_`, an
    `eqtangents.predict.FromNetwork` of a `GaussianProcess` with the NTK, for
    standardised targets; `mean_` and `scale_`, which standardised them.

    **Raises:** by `fit`, `TypeError` or `ValueError` for hyperparameters that do not
    fit, and for those that are given, but would change nothing; what kernels and
    predictors raise.

    **Cost:** $n^2$ entries of the kernel, and $n^3 / 3$ multiply-adds. With
    `return_std` those of another kernel, and the matrix of all new inputs.

    **Source:** Jacot et al. 2018, arXiv:1806.07572; Lee et al. 2019, arXiv:1902.06720,
    section 2.3.
    """

    _inference = OF_ENSEMBLE


class NNGPRegressor(AbstractRegressor):
    r"""The exact Bayesian posterior of an infinitely wide network.

    Its prior is that of random weights, a Gaussian process with the covariance $K$ of
    the network, the NNGP kernel: the posterior mean is

    $$f(x) = K(x, X) (K(X, X) + \sigma^2 I)^{-1} y$$

    and `predict(X, return_std=True)` gives the posterior's standard deviations, too,
    of the function without noise.

    ```python
    import numpy as np

    from eqtangents.estimators import NNGPRegressor

    X = np.linspace(-2, 2, 20)[:, None]
    model = NNGPRegressor(depth=2, activation="erf", bias_std=1.0, noise=0.01)
    mean, deviation = model.fit(X, np.sin(2 * X[:, 0])).predict(X, return_std=True)
    evidence = model.predictor_.log_marginal_likelihood()
    ```

    Targets are standardised, and computed is in the precision of `X`, as for
    `NTKRegressor`, whose arguments it has.

    **Arguments:**

    - `net`, `depth`, `activation`, `weight_std`, `bias_std`: the network.
    - `noise`: $\sigma^2$, the variance of the observations, in units of the variance of
        the targets.
    - `relative_noise`: more of it, in units of the prior's mean variance.

    What `fit` finds: `net_`; `predictor_`, a `FromNetwork` of a `GaussianProcess`;
    `mean_` and `scale_` of targets.

    **Raises:** as `NTKRegressor` does.

    **Cost:** $n^2$ entries of the kernel, and $n^3 / 3$ multiply-adds.

    **Source:** Lee et al. 2018, arXiv:1711.00165; Matthews et al. 2018,
    arXiv:1804.11271.
    """

    _inference = OF_POSTERIOR
