"""Predictions from kernels: what infinitely wide networks say about new inputs."""

import typing as _typing

from eqtangents._other_names import names_told as _names_told
from eqtangents.predict._classification import (
    class_probabilities as class_probabilities,
    decode_labels as decode_labels,
    encode_labels as encode_labels,
    expected_calibration_error as expected_calibration_error,
    sampled_class_probabilities as sampled_class_probabilities,
)
from eqtangents.predict._conditioning import (
    condition_number as condition_number,
    eigenvalues as eigenvalues,
    max_learning_rate as max_learning_rate,
)
from eqtangents.predict._ensemble import Ensemble as Ensemble
from eqtangents.predict._from_network import FromNetwork as FromNetwork
from eqtangents.predict._gaussian_process import GaussianProcess as GaussianProcess
from eqtangents.predict._gradient_descent import GradientDescent as GradientDescent
from eqtangents.predict._gradient_descent_mse import (
    Gain as Gain,
    GradientDescentMSE as GradientDescentMSE,
)
from eqtangents.predict._gradient_steps import GradientSteps as GradientSteps
from eqtangents.predict._habits import OF_PREDICTORS as _OF_PREDICTORS
from eqtangents.predict._losses import (
    cross_entropy as cross_entropy,
    half_mean_squared_error as half_mean_squared_error,
)
from eqtangents.predict._spectrum import Spectrum as Spectrum
from eqtangents.predict._training_rules import (
    AbstractRule as AbstractRule,
    GradientFlow as GradientFlow,
    flow_gain as flow_gain,
)
from eqtangents.predict._training_state import TrainingState as TrainingState


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__, _OF_PREDICTORS)
