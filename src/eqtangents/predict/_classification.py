"""Classification by regression: labels to targets, and outputs to probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Int, Shaped

from eqtangents._products import einsum
from eqtangents._types import Scalar
from eqtangents.predict._arguments import array_argument, finite, number, refuse


# The integrand is smooth and lies between 0 and 1.
_QUADRATURE_NODES = 64

_NO_VARIANCE = (
    "`variance` must be positive. Where a posterior has none left, add the noise's: "
    "that gives the probability of labels."
)


def encode_labels(
    labels: Int[Array, " n"], n_classes: int, dtype: jnp.dtype | type = float
) -> Float[Array, "n n_classes"]:
    r"""Targets for regression: $1 - 1/C$ for the right class, $-1/C$ for each other.

    They sum to zero, as the outputs of a network with a symmetric prior do on average.

    **Arguments:**

    - `labels`: classes, from 0 to `n_classes - 1`.
    - `n_classes`: $C$, their number.
    - `dtype`: of the targets.

    **Raises:** `ValueError` if labels are not integers; `RuntimeError` if one is no
    class.
    """
    labels = array_argument("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"`labels` has dtype {labels.dtype}, but classes are numbered by integers."
        )
    wrong = jnp.any((labels < 0) | (labels >= n_classes))
    message = f"`labels` must be classes, from 0 to {n_classes - 1}."
    labels = refuse(labels, (wrong, message))
    dtype = jnp.result_type(dtype)
    return jax.nn.one_hot(labels, n_classes, dtype=dtype) - 1 / n_classes


def decode_labels(outputs: Float[Array, "*batch n_classes"]) -> Int[Array, "*batch"]:
    """The class with the largest output."""
    outputs = array_argument("outputs", outputs)
    if not outputs.ndim:
        raise ValueError("`outputs` has no axis of classes: `(*batch, n_classes)`.")
    return jnp.argmax(finite("outputs", outputs), axis=-1)


def class_probabilities(
    mean: Float[Array, "*batch n_classes"],
    variance: Float[Array, "*batch"] | Float[Array, "*batch n_classes"],
) -> Float[Array, "*batch n_classes"]:
    r"""Probability that each class has the largest output (multinomial probit).

    For independent Gaussian outputs with these means $m_c$ and variances $s_c^2$,

    $$p_c = \int \mathcal{N}(z) \prod_{d \ne c}
    \Phi\!\left(\frac{m_c + s_c z - m_d}{s_d}\right) dz$$

    Add the noise's variance to a posterior's, for the probability of labels
    rather than of the noiseless function: that is what is calibrated.

    **Arguments:**

    - `mean`: of the outputs.
    - `variance`: positive, the same for all classes or one each.

    **Raises:** `ValueError` if the shapes do not fit; `RuntimeError` if a mean is not
    finite or a variance not positive.

    **Source:** Girolami & Rogers 2006, "Variational Bayesian multinomial probit
    regression with Gaussian process priors", equation 6.
    """
    mean = finite("mean", array_argument("mean", mean))
    variance = array_argument("variance", variance, mean.dtype)
    if variance.shape == mean.shape[:-1]:
        variance = jnp.broadcast_to(variance[..., None], mean.shape)
    if variance.shape != mean.shape:
        raise ValueError(
            f"`variance` has shape {variance.shape}, but `mean` has shape "
            f"{mean.shape}: {mean.shape[:-1]}, or one for each class, is needed."
        )
    wrong = ~jnp.all(variance > 0)
    variance = refuse(variance, (wrong, _NO_VARIANCE))
    nodes, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE_NODES)
    nodes = jnp.asarray(nodes, mean.dtype)
    weights = jnp.asarray(weights / weights.sum(), mean.dtype)
    deviation = jnp.sqrt(variance)
    # Axes: class, other class, node.
    value = mean[..., :, None] + einsum("...c,q->...cq", deviation, nodes)
    distance = value[..., :, None, :] - mean[..., None, :, None]
    logs = log_ndtr(distance / deviation[..., None, :, None])
    other = ~np.eye(mean.shape[-1], dtype=bool)[..., None]
    shape = np.broadcast_shapes(logs.shape, other.shape)
    below = jnp.sum(jnp.where(np.broadcast_to(other, shape), logs, 0), axis=-2)
    probabilities = einsum("...cq,q->...c", jnp.exp(below), weights)
    return probabilities / jnp.sum(probabilities, axis=-1, keepdims=True)


def sampled_class_probabilities(
    samples: Float[Array, "samples *batch n_classes"],
    *,
    temperature: Scalar | None = None,
) -> Float[Array, "*batch n_classes"]:
    """Class probabilities from samples of the outputs, however these depend.

    **Arguments:**

    - `samples`: from `GaussianProcess.sample`, say.
    - `temperature`: if given, the average of `softmax(samples / temperature)`; if not,
        how often each class has the largest output.

    **Raises:** `ValueError` if the temperature is not one number; `RuntimeError` if it
    is negative or a sample is not finite.
    """
    samples = finite("samples", array_argument("samples", samples))
    if temperature is None:
        winners = jnp.argmax(samples, axis=-1)
        votes = jax.nn.one_hot(winners, samples.shape[-1], dtype=samples.dtype)
    else:
        temperature = number("temperature", temperature)
        votes = jax.nn.softmax(samples / jnp.asarray(temperature, samples.dtype))
    return jnp.mean(votes, axis=0)


def expected_calibration_error(
    probabilities: Float[Array, "n n_classes"],
    labels: Shaped[Array, " n"],
    *,
    bins: int = 15,
) -> Float[Array, ""]:
    r"""Mean distance of confidence from accuracy, over bins of equal confidence.

    $$\sum_b \frac{n_b}{n} \,
    \bigl| \operatorname{accuracy}_b - \operatorname{confidence}_b \bigr|$$

    **Arguments:**

    - `probabilities`: of each class.
    - `labels`: the right classes.
    - `bins`: how many, of the same width, between 0 and 1.

    **Raises:** `ValueError` if there is not one label for each example.

    **Source:** Guo et al. 2017, arXiv:1706.04599, equation 3.
    """
    probabilities = finite(
        "probabilities", array_argument("probabilities", probabilities)
    )
    labels = array_argument("labels", labels)
    if labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"`labels` has shape {labels.shape}, but `probabilities` has shape "
            f"{probabilities.shape}: {probabilities.shape[:1]} is needed."
        )
    confidence = jnp.max(probabilities, axis=-1)
    right = jnp.argmax(probabilities, axis=-1) == labels
    index = jnp.clip(jnp.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    surplus = right.astype(confidence.dtype) - confidence
    sums = jax.ops.segment_sum(surplus, index, num_segments=bins)
    return jnp.sum(jnp.abs(sums)) / confidence.shape[0]
