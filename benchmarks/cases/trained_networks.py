"""Trained networks against infinite ones: mean and variance of what they say.

Many networks are trained on digits by full-batch gradient descent. Mean and variance of
their outputs over initialisations, on training and test digits and at several times,
are compared with those of infinite width: the squared error with the closed form of
`Ensemble`, the cross-entropy with the differential equation of `GradientDescent`, from
each network's own start. The bias of a finite width is inversely proportional to it, so
it is measured on narrow networks and scaled.
"""

import functools

import numpy as np

from benchmarks.harness import OURS, Answer, Case, Failed, Figures, Run


STEPS = [0, 10, 50, 200]
DIGITS = {"n_train": 30, "n_test": 10}
# Of the largest learning rate: the flow, for the cross-entropy, must be close to steps.
FRACTION = {"squared-error": 1 / 4, "cross-entropy": 1 / 8}
WIDE = {"width": 1024, "networks": 100, "narrow_width": 256, "narrow_networks": 500}
TINY = {"width": 64, "networks": 4, "narrow_width": 32, "narrow_networks": 4}
SMOKE = [f"trained-{loss}" for loss in FRACTION]
SURE = 0.99  # of all outputs are within three standard errors and the bias


def cases(*, tiny: bool) -> dict[str, Case]:
    """A case for each loss."""
    sizes = TINY if tiny else WIDE
    found = {}
    for loss, fraction in FRACTION.items():
        job = {"loss": loss, "fraction": fraction, "steps": STEPS, **DIGITS, **sizes}
        found[f"trained-{loss}"] = Case(
            about=f"{sizes['networks']} networks of width {sizes['width']}, {loss}",
            inputs=dict,
            runs={OURS: Run(OURS, "trained_networks_eqtangents", job)},
            check=functools.partial(check, tiny),
        )
    return found


def check(tiny: bool, answers: dict[str, Answer]) -> Figures:
    """How many outputs are where infinite width has them, by moment and time."""
    figures: Figures = {}
    for moment in ("mean", "variance"):
        distance, error, bias = (
            answers[OURS][f"{moment}_{name}"] for name in ("distance", "error", "bias")
        )
        for j, steps in enumerate(STEPS):
            off = np.abs(distance[j])
            within = float(np.mean(off <= 3 * error[j] + bias[j]))
            without_bias = float(np.mean(off <= 3 * error[j]))
            rms = float(np.sqrt(np.mean((off / error[j]) ** 2)))
            at = f"of {moment} after {steps} steps"
            figures[f"within 3 standard errors and bias {at}"] = within
            figures[f"within 3 standard errors {at}"] = without_bias
            figures[f"rms in standard errors {at}"] = rms
            figures[f"mean bias in standard errors {at}"] = float(
                np.mean(bias[j] / error[j])
            )
            if not tiny and not within >= SURE:
                raise Failed(f"{within:.1%} {at} agree with infinite width.")
    return figures
