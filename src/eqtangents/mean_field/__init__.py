"""Signals in deep networks of infinite width: order, chaos, and the scales of depth."""

import typing as _typing

from eqtangents._other_names import names_told as _names_told
from eqtangents.mean_field._correlation_map import (
    CorrelationMap as CorrelationMap,
    SignalState as SignalState,
)
from eqtangents.mean_field._critical import (
    critical as critical,
    phase_diagram as phase_diagram,
)
from eqtangents.mean_field._fixed_point import (
    DepthScales as DepthScales,
    FixedPoint as FixedPoint,
)
from eqtangents.mean_field._modes import (
    SpatialModes as SpatialModes,
    spatial_modes as spatial_modes,
)


if not _typing.TYPE_CHECKING:  # type checkers know that there are no other names
    __getattr__ = _names_told(__name__)
