"""Names that other libraries have, and older versions had, and what is here instead."""

import difflib
from collections.abc import Mapping, Sequence


def no_such_name(
    module: str,
    short: str,
    name: str,
    names: Sequence[str],
    renamed: Mapping[str, str],
    said: Mapping[str, str],
) -> AttributeError:
    """The error for a name that a module does not have.

    **Arguments:**

    - `module`, `short`: its name, and what users call it.
    - `name`, `names`: the name, and those that there are.
    - `renamed`: what names of other libraries are here.
    - `said`: a sentence on names of which there is no such thing here.
    """
    message = f"`{module}` has no `{name}`."
    new = renamed.get(name)
    if new is None and name not in said:
        by_lower = {one.lower(): one for one in names if not one.startswith("_")}
        plain = name.lower().replace("_", "")
        new = by_lower.get(plain)
        if new is None and (close := difflib.get_close_matches(plain, by_lower, 1)):
            message += f" Did you mean `{short}.{by_lower[close[0]]}`?"
    if new is not None:
        message += f" `{name}` is `{short}.{new}` here."
    elif name in said:
        message += f" {said[name]}"
    return AttributeError(message, name=name)


_ESTIMATES = (
    "Estimates at finite width: `eqt.monte_carlo(net, x1, x2, key, n_samples)`."
)
_EMPIRICAL = "It is called with a model or a function, `eqt.{0}(model, x1, x2)`."


def none_here(name: str, names: Sequence[str]) -> AttributeError:
    """The error for a name that `eqtangents` does not have."""
    renamed = {
        "taylor_expand": "taylorize",
        "EmpiricalKernel": "Kernel",
        "kernel_fn": "kernel",
        "from_flax": "from_function",
        "from_haiku": "from_function",
        "stax": "nn",
    }
    said = {
        "monte_carlo_kernel_fn": _ESTIMATES,
        "empirical_ntk_fn": _EMPIRICAL.format("empirical_ntk"),
        "empirical_nngp_fn": _EMPIRICAL.format("empirical_nngp"),
        "empirical_kernel_fn": _EMPIRICAL.format("empirical_kernel"),
        "empirical_ntk_vp_fn": "Products with it: `eqt.NTKOperator(model, x).mv(v)`.",
        "empirical_direct_ntk_fn": _EMPIRICAL.format("empirical_ntk"),
        "empirical_implicit_ntk_fn": _EMPIRICAL.format("empirical_ntk"),
        "batch": (
            "Kernels are computed in tiles that fit the memory; over several devices, "
            "or into a store, by `eqt.gram(net, x1, x2, mesh=...)`."
        ),
        "NtkImplementation": 'It is a string: `implementation="structured"`, say.',
    }
    return no_such_name("eqtangents", "eqt", name, names, renamed, said)


def no_predictor(name: str, names: Sequence[str]) -> AttributeError:
    """The error for a name that `eqtangents.predict` does not have."""
    renamed = {
        "FromInputs": "FromNetwork",
        "GP": "GaussianProcess",
        "GaussianProcessRegressor": "GaussianProcess",
        "KernelRidge": "GaussianProcess",
        "gp_inference": "GaussianProcess",
        "gradient_descent": "GradientDescent",
        "gradient_descent_mse": "GradientDescentMSE",
        "gradient_descent_mse_ensemble": "Ensemble",
        "ODEState": "TrainingState",
    }
    return no_such_name("eqtangents.predict", "predict", name, names, renamed, {})
