"""Parameterisations: at which scale weights and biases are drawn, and act."""

import abc
import math
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

import equinox as eqx

from eqtangents._types import Multipliers, Rule, Scalar, ScalarOrBatch, plain
from eqtangents.nn._habits import checked_new


class Fans(NamedTuple):
    """The sizes of a layer: inputs to each output, and channels before and after it."""

    inputs: int
    channels_in: int
    channels_out: int


class ParameterScale(NamedTuple):
    """The scale of one kind of parameters.

    `multiplier`: what they are multiplied by in the forward pass. `deviation`: the
    standard deviation that they are drawn with. `product`: the product of both, where
    it is known without the rounding of either. Each is one number, or one for each tap
    of a window.
    """

    multiplier: ScalarOrBatch
    deviation: ScalarOrBatch
    product: ScalarOrBatch | None = None

    @property
    def of_function(self) -> ScalarOrBatch:
        """The scale of the layer's function."""
        if self.product is None:
            return self.multiplier * self.deviation
        return self.product


class AbstractParameterization(eqx.Module):
    r"""How a layer's function depends on its parameters, when drawn and when trained.

    With $N$ inputs $x$ to each output, weights $\omega$ and biases $\beta$,

    $$z = \frac{m_w}{\sqrt{N}}\, \omega x + m_b\, \beta, \qquad
    \omega \sim \mathcal{N}(0, d_w^2), \quad \beta \sim \mathcal{N}(0, d_b^2).$$

    The products $m d$ are the scale of the function, and the multipliers $m$ alone are
    the scale of its gradients: with $L$ the layer's linear operation on covariances,

    $$K' = (m_w d_w)^2 L(K) + (m_b d_b)^2, \qquad
    T' = (m_w d_w)^2 L(T) + m_w^2 L(K) + m_b^2.$$

    So two pairs of numbers are a parameterisation: finite networks and kernels follow.
    They may depend on the sizes of the layer, and on the standard deviations
    $\sigma_w, \sigma_b$ that it was given. Where the taps of a window have variances of
    their own, $\sigma_w$ is an array of them, and so are the numbers that depend on it.
    """

    if not TYPE_CHECKING:  # checkers read `__init__`
        __new__ = checked_new

    @property
    @abc.abstractmethod
    def vanishing(self) -> bool:
        """Whether $m_w d_w$ goes to zero as the input widens, and with it the outputs.

        $K'$ is then its limit $(m_b d_b)^2$, and the network ends here: no weights and
        no nonlinearity may follow.
        """

    @abc.abstractmethod
    def channels(self, out: int) -> int:
        """The number of output channels of a layer that was asked for `out` of them."""

    @abc.abstractmethod
    def weights(self, std: ScalarOrBatch, fans: Fans) -> ParameterScale:
        r"""The scale $m_w, d_w$ of the weights, for $\sigma_w$ = `std`."""

    @abc.abstractmethod
    def biases(self, std: Scalar, fans: Fans) -> ParameterScale:
        r"""The scale $m_b, d_b$ of the biases, for $\sigma_b$ = `std`."""


class NTK(AbstractParameterization):
    r"""Standard normal parameters, scaled in the forward pass.

    $$z = \frac{\sigma_w}{\sqrt{N}}\, \omega x + \sigma_b\, \beta, \qquad
    \omega, \beta \sim \mathcal{N}(0, 1)$$

    The tangent kernel does not depend on the width. One learning rate serves all
    widths, and wide networks train as their linearisation does.

    **Source:** Jacot et al. 2018, arXiv:1806.07572.
    """

    @property
    def vanishing(self) -> bool:
        return False

    def channels(self, out: int) -> int:
        return out

    def weights(self, std: ScalarOrBatch, fans: Fans) -> ParameterScale:
        return ParameterScale(std, 1.0)

    def biases(self, std: Scalar, fans: Fans) -> ParameterScale:
        return ParameterScale(std, 1.0)


class Standard(AbstractParameterization):
    r"""Parameters that are drawn at their scale, as other libraries have them.

    $$z = \frac{1}{\sqrt{s_0}}\, \omega x + \beta, \qquad
    \omega \sim \mathcal{N}(0, \sigma_w^2 s_0 / N), \quad
    \beta \sim \mathcal{N}(0, \sigma_b^2)$$

    with the width multipliers $s_0, s_1$ of inputs and outputs: a layer has $s_1$ times
    as many outputs as were asked for. The tangent kernel grows with $N / s_0$, the
    width of the network whose learning rates are to be kept.

    **Source:** Sohl-Dickstein et al. 2020, arXiv:2001.07301.
    """

    width_multipliers: Multipliers = eqx.field(static=True)

    def __init__(self, width_multipliers: Multipliers = (1, 1)):
        """Set by how much inputs and outputs are wider than in the network in mind."""
        self.width_multipliers = plain(width_multipliers)

    @property
    def vanishing(self) -> bool:
        return False

    def channels(self, out: int) -> int:
        return out * self.width_multipliers[1]

    def weights(self, std: ScalarOrBatch, fans: Fans) -> ParameterScale:
        wider = self.width_multipliers[0]
        deviation = std * math.sqrt(wider / fans.inputs)
        return ParameterScale(math.sqrt(fans.inputs / wider), deviation, std)

    def biases(self, std: Scalar, fans: Fans) -> ParameterScale:
        return ParameterScale(1.0, std)


class MuP(AbstractParameterization):
    r"""The maximal-update parameterisation, in which wide networks learn features.

    With $n$ output channels, a layer before the readout is

    $$z = \sigma_w \sqrt{\frac{n}{N}}\, \omega x + \sigma_b \sqrt{n}\, \beta, \qquad
    \omega, \beta \sim \mathcal{N}(0, 1 / n),$$

    which is $\sigma_w \omega x$ between layers of one width, and
    $\sigma_w \sqrt{n}\, \omega x / \sqrt{d}$ for $d$ features of the network's input. A
    readout of $n$ channels, with $N / n$ positions in its window, is

    $$f = \frac{\sigma_w}{\sqrt{N}}\, \omega x + \sigma_b\, \beta, \qquad
    \omega \sim \mathcal{N}(0, 1 / n), \quad \beta \sim \mathcal{N}(0, 1).$$

    So it is $n^{-1/2}$ times the readout of the NTK parameterisation, and all other
    parameters are $n^{-1/2}$ times theirs at the same function. The first divides the
    tangent kernel of the output by $n$, the second multiplies it by $n$: it is the one
    of the NTK parameterisation if all layers have one width. In general a layer's part
    of it counts $n / n_\text{readout}$ times, where `nn.Flatten()` before the readout
    multiplies $n_\text{readout}$ by the number of positions. The NNGP of the output
    vanishes as $1 / n$, but for its bias, which is $\sigma_b^2$. Before the readout,
    tangent kernels grow with the width: each is computed for the width that its layer
    was given.

    Here $\sigma_w$ multiplies, as in the NTK parameterisation. The source draws weights
    of variance $\sigma_w^2 / n$ instead, which has the same function, and gradients
    without the $\sigma_w$.

    Kernels hold at initialisation. In training they change at every width, which
    predictions of `eqtangents.predict` do not know of.

    **Learning rates:** stochastic gradient descent takes one learning rate for all
    parameters, and at all widths. Adam and other methods that normalise gradients take
    others, for each kind of weights (Yang et al. 2022, arXiv:2203.03466, table 3).
    Attention and trained gains have no parameterisation: their part of the tangent
    kernel falls as $1 / n$.

    **Source:** Yang & Hu 2021, arXiv:2011.14522, table 1, with learning rates of
    exponent $c = 0$; for layers of different widths, Yang et al. 2023,
    arXiv:2310.17813.
    """

    readout: bool = eqx.field(static=True)

    def __init__(self, *, readout: bool = False):
        """Say whether this is the last layer with weights.

        All layers of a network take `nn.MuP()`, the last one `nn.MuP(readout=True)`.
        """
        self.readout = readout

    @property
    def vanishing(self) -> bool:
        return self.readout

    def channels(self, out: int) -> int:
        return out

    def weights(self, std: ScalarOrBatch, fans: Fans) -> ParameterScale:
        if self.readout:
            return ParameterScale(std, 1 / math.sqrt(fans.channels_in))
        return _divided_by_root(std, fans.channels_out)

    def biases(self, std: Scalar, fans: Fans) -> ParameterScale:
        if self.readout:
            return ParameterScale(std, 1.0)
        return _divided_by_root(std, fans.channels_out)


def _divided_by_root(std: ScalarOrBatch, n: int) -> ParameterScale:
    """Parameters of variance `1 / n`, at the same function."""
    return ParameterScale(math.sqrt(n) * std, 1 / math.sqrt(n), std)


_PARAMETERIZATIONS = 'be "ntk" or "standard", or an object such as `nn.MuP()`'
IS_PARAMETERIZATION = Rule(
    _PARAMETERIZATIONS,
    lambda x: isinstance(x, str | AbstractParameterization),
    _PARAMETERIZATIONS,
    lambda x: not isinstance(x, str) or x.lower() in ("ntk", "standard"),
)
# What layers accept: an object, or the name of one.
Parameterization: TypeAlias = Annotated[
    Literal["ntk", "standard"] | AbstractParameterization, IS_PARAMETERIZATION
]


def as_parameterization(
    layer: object, parameterization: Parameterization, width_multipliers: Multipliers
) -> AbstractParameterization:
    """The object for the two arguments that layers take.

    **Raises:** `ValueError` for width multipliers that would have no effect.
    """
    name = parameterization.lower() if isinstance(parameterization, str) else None
    if name == "standard":
        return Standard(width_multipliers)
    if plain(width_multipliers) != (1, 1):
        came = '"ntk"' if name else f"`nn.{type(parameterization).__name__}`"
        raise ValueError(
            f"{type(layer).__name__}: `width_multipliers` is {width_multipliers}, but "
            f"has no effect with the parameterization {came}. Write "
            f'`parameterization="standard"`, or `nn.Standard({width_multipliers})`, or '
            "leave it out."
        )
    if isinstance(parameterization, AbstractParameterization):
        return parameterization
    return NTK()
