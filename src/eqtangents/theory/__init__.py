"""What theory says of learning with kernels: spectra, learning curves, information."""

import typing as _typing

from eqtangents._other_names import names_told as _names_told
from eqtangents.theory._alignment import alignment as alignment
from eqtangents.theory._learning_curve import LearningCurve as LearningCurve
from eqtangents.theory._modes import (
    KernelModes as KernelModes,
    modes_of_data as modes_of_data,
    modes_on_sphere as modes_on_sphere,
    power_on_sphere as power_on_sphere,
)
from eqtangents.theory._parameter_flow import ParameterFlow as ParameterFlow


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__)
