"""The `predict__*` cases of `tests/reference`: calls of Neural Tangents' predictors.

Each call of the reference becomes calls of ours. What differs in meaning:

- Kernels of outputs at several positions are interleaved there; targets have their
  traced axes anywhere, ours last.
- Outputs for training examples, where no test examples are given, are those of the
  noisy kernel there; ours are those of the network. The noisy kernel, taken as a kernel
  without noise, gives theirs.
- The noise of the NNGP's posterior is in the targets and in the regularisation; that of
  the NTK's ensemble is in the regularisation only.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import eqtangents as eqt
import reference_cases
from eqtangents import predict
from reference import load


PREFIX = "predict__"


@dataclasses.dataclass(frozen=True)
class PredictCase:
    """The constructor of a reference predictor, and its calls."""

    name: str
    doc: dict
    arrays: dict

    def value(self, argument: Any) -> Any:
        """An argument of the reference as arrays, kernels in our order of axes."""
        if isinstance(argument, dict) and "array" in argument:
            return jnp.asarray(self.arrays[argument["array"]])
        if isinstance(argument, dict):
            (fields,) = argument.values()
            return {name: self.value(field) for name, field in fields.items()}
        return jnp.inf if argument == "inf" else argument

    def results(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """For each output of each call: where, ours, and the reference's."""
        evaluate = _EVALUATE[self.doc["fn"]]
        found = []
        for call in self.doc["calls"]:
            arguments = {k: self.value(v) for k, v in call["args"].items()}
            ours = evaluate(self, arguments, list(call["outputs"]))
            for name, result in ours.items():
                precise = call["outputs"].get(f"{name}_precise")
                key = precise or call["outputs"][name]
                found.append((f"{call['id']}.{name}", result, self.arrays[key]))
        return found


@functools.cache
def cases() -> list[PredictCase]:
    """All of them."""
    found = []
    for path in load.cases("predict"):
        case = load.load_case(path)
        found.append(PredictCase(path.stem.removeprefix(PREFIX), case.doc, case.arrays))
    return found


def _kernel(interleaved: Any) -> Any:
    """`(n1, n2, a, a, b, b)` as `(n1, n2, a, b, a, b)`."""
    if isinstance(interleaved, dict):
        return {name: _kernel(k) for name, k in interleaved.items()}
    rank = interleaved.ndim
    return jnp.transpose(interleaved, (0, 1, *range(2, rank, 2), *range(3, rank, 2)))


def _noisy(kernel: Any, init: dict) -> Any:
    """The kernel with the reference's regulariser on its diagonal."""
    n, size = kernel.shape[0], int(np.prod(kernel.shape[: (kernel.ndim - 2) // 2 + 2]))
    rows = size // n
    matrix = jnp.moveaxis(kernel, 1, kernel.ndim // 2).reshape(rows, rows)
    matrix = matrix + _noise(matrix, init) * jnp.eye(rows, dtype=matrix.dtype)
    half = [n, *kernel.shape[2 : kernel.ndim // 2 + 1]]
    return jnp.moveaxis(matrix.reshape(*half, *half), kernel.ndim // 2, 1)


def _noise(matrix: Any, init: dict) -> Any:
    noise = init.get("diag_reg", 0.0)
    if init.get("diag_reg_absolute_scale", False):
        return jnp.asarray(noise, matrix.dtype)
    return noise * jnp.trace(matrix) / matrix.shape[0]


def _options(init: dict) -> dict:
    absolute = init.get("diag_reg_absolute_scale", False)
    return {"noise" if absolute else "relative_noise": init.get("diag_reg", 0.0)}


def _traced(case: PredictCase, ndim: int, leading: int = 0) -> list[int]:
    """Axes of `leading` times and then outputs, on which outputs are independent."""
    axes = case.doc["init"].get("trace_axes", [-1])
    return [leading + axis % (ndim - leading) for axis in axes]


def _traced_last(case: PredictCase, outputs: Any) -> Any:
    """Outputs of the reference with these axes at the end."""
    if jnp.ndim(outputs) == 0:
        return outputs
    axes = _traced(case, outputs.ndim)
    return jnp.moveaxis(outputs, axes, range(-len(axes), 0)) if axes else outputs


def _traced_back(case: PredictCase, outputs: Any, t: Any = 0.0) -> Any:
    """Our outputs, at these times, with the axes where the reference has them."""
    axes = _traced(case, outputs.ndim, jnp.ndim(t))
    return jnp.moveaxis(outputs, range(-len(axes), 0), axes) if axes else outputs


def _mse(case: PredictCase, arguments: dict, names: list) -> dict:
    init = {k: case.value(v) for k, v in case.doc["init"].items()}
    k, y = _kernel(init["k_train_train"]), _traced_last(case, init["y_train"])
    rule = predict.GradientFlow(init.get("learning_rate", 1.0))
    t = arguments["t"]
    t = jnp.inf if t is None else t
    # Without initial training outputs, only the test's are asked for.
    start_train = arguments.get("fx_train_0", 0.0)
    start = _traced_last(case, 0.0 if start_train is None else start_train)
    results = {}
    if "fx_train" in names:
        training = predict.GradientDescentMSE(_noisy(k, init), y, rule=rule)
        results["fx_train"] = training.train_outputs(t, start)
    if "fx_test" in names:
        training = predict.GradientDescentMSE(k, y, rule=rule, **_options(init))
        start_test = _traced_last(case, arguments["fx_test_0"])
        k_test_train = _kernel(arguments["k_test_train"])
        results["fx_test"] = training.test_outputs(t, k_test_train, start, start_test)
    return {name: _traced_back(case, value, t) for name, value in results.items()}


def _gp(case: PredictCase, arguments: dict, names: list) -> dict:
    init = {k: case.value(v) for k, v in case.doc["init"].items()}
    k = _kernel(init["k_train_train"])
    y = _traced_last(case, init["y_train"])
    star, star_star = arguments["k_test_train"], arguments["k_test_test"]
    if star is None:  # the training set: the reference returns targets and no variance
        k = {name: _noisy(kernel, init) for name, kernel in k.items()}
        star, star_star, init = k, k, {}
    else:
        star = _kernel(star)
        star_star = None if star_star is None else _kernel(star_star)
    results = {}
    for name in names:
        prior, moment = name.split(".")
        which = "nngp" if prior == "nngp" else "ntk"
        posterior = predict.GaussianProcess(k[which], y, **_options(init))
        if moment == "mean":
            results[name] = _traced_back(case, posterior.mean(star[which]))
            continue
        test = star_star
        if isinstance(star_star, dict):
            test = star_star["ntk" if prior == "ntkgp" else "nngp"]
        if prior == "ntk":
            nngp = (k["nngp"], star["nngp"], test)
            results[name] = posterior.ensemble_covariance(*nngp, star["ntk"])
        else:
            results[name] = posterior.covariance(star[which], test)
    return {k: _interleaved(v, 0) if "cov" in k else v for k, v in results.items()}


def _interleaved(kernel: Any, leading: int) -> Any:
    rank = (kernel.ndim - leading - 2) // 2
    first = leading + 2
    pairs = [first + side * rank + i for i in range(rank) for side in (0, 1)]
    return jnp.transpose(kernel, (*range(first), *pairs))


def _ensemble(case: PredictCase, arguments: dict, names: list) -> dict:
    init, t = case.doc["init"], arguments["t"]
    t = jnp.inf if t is None else t
    net = _network(case.name)
    y = case.value(init["y_train"])
    x = jnp.moveaxis(case.value(init["x_train"]), -1, 1)
    k = eqt.kernel(net, x)
    rule = predict.GradientFlow(init.get("learning_rate", 1.0))
    results = {}
    for name in names:
        which, moment = name.split(".")
        options = {"rule": rule, "trained": "all" if which == "ntk" else "last"}
        if arguments["x_test"] is None:
            noisy = [_noisy(k.nngp, init) if which == "nngp" else k.nngp]
            noisy += [_noisy(k.ntk, init) if which == "ntk" else k.ntk]
            ensemble = predict.Ensemble(eqt.Kernel(*noisy), y, **options)
            moments = {"mean": ensemble.train_mean, "cov": ensemble.train_covariance}
            value = moments[moment](t)
        else:
            x_test = jnp.moveaxis(arguments["x_test"], -1, 1)
            if which == "nngp":
                mean = jnp.trace(_matrix(k.nngp)) / _matrix(k.nngp).shape[0]
                absolute = init.get("diag_reg_absolute_scale", False)
                scale = 1.0 if absolute else mean
                options["target_noise"] = scale * init.get("diag_reg", 0.0)
            ensemble = predict.Ensemble(k, y, **options, **_options(init))
            star = eqt.kernel(net, x_test, x)
            if moment == "mean":
                value = ensemble.mean(t, star)
            else:
                value = ensemble.covariance(t, star, eqt.nngp(net, x_test))
        results[name] = _interleaved(value, jnp.ndim(t)) if moment == "cov" else value
    return results


def _matrix(kernel: Any) -> Any:
    half = kernel.ndim // 2
    rows = int(np.prod(kernel.shape[1 : half + 1]))
    return jnp.moveaxis(kernel, 1, half).reshape(-1, rows)


def _network(name: str) -> Any:
    case = next(case for case in cases() if case.name == name)
    axes = reference_cases._input_axes(case.arrays["in.x_train"].ndim, 0, -1)
    build, _ = reference_cases.translate(case.doc["init"]["net"], axes)
    return build()


_LOSSES = {
    "half_mse_mean": predict.half_mean_squared_error,
    "cross_entropy_mean": lambda f, y: -jnp.mean(jax.nn.log_softmax(f) * y),
    "cross_entropy_sum": lambda f, y: -jnp.sum(jax.nn.log_softmax(f) * y),
}


def _gd(case: PredictCase, arguments: dict, names: list) -> dict:
    init = {k: case.value(v) for k, v in case.doc["init"].items()}
    rate = init.get("learning_rate", 1.0)
    training = predict.GradientDescent(
        _LOSSES[init["loss"]],
        _kernel(init["k_train_train"]),
        _traced_last(case, init["y_train"]),
        learning_rate=rate,
        momentum=init.get("momentum"),
        rtol=1e-9,
        atol=1e-9,
    )
    start = arguments.get("fx_train_or_state_0", 0.0)
    start = start if isinstance(start, dict) else {"fx_train": start}
    start_test = start.get("fx_test", arguments.get("fx_test_0"))
    # The reference's time is a square root of the learning rate times ours.
    speed = {
        name: rate**0.5 * start[name]
        for name in ("qx_train", "qx_test")
        if name in start
    }
    states = training.states(
        arguments["t"], training.start(start["fx_train"], speed.get("qx_train"))
    )
    results = {}
    if "fx_train" in names:
        results["fx_train"] = states.outputs
    if "fx_test" in names:
        results["fx_test"] = training.test_outputs(
            states,
            _kernel(arguments["k_test_train"]),
            start_test,
            speed.get("qx_test", 0.0),
        )
    if "qx_train" in names:
        results["qx_train"] = states.outputs_velocity / rate**0.5
    if "qx_test" in names:
        # What weights do to outputs, their velocities do to those of the outputs; the
        # velocity of the start wears off.
        slow = jnp.exp((init["momentum"] - 1) * states.time)
        moving = dataclasses.replace(states, weights=states.weights_velocity)
        k_test_train = _kernel(arguments["k_test_train"])
        velocity = training.test_outputs(moving, k_test_train)
        velocity += jnp.einsum("...,ab->...ab", slow, speed["qx_test"])
        results["qx_test"] = velocity / rate**0.5
    return results


def _max_learning_rate(case: PredictCase, arguments: dict, names: list) -> dict:
    del case
    kernel = arguments["ntk_train_train"]
    momentum, size = arguments.get("momentum", 0.0), arguments.get("y_train_size")
    rate = predict.max_learning_rate(_kernel(kernel), n_targets=size, momentum=momentum)
    # Theirs has a small number added to the eigenvalue.
    rows = _matrix(_kernel(kernel)).shape[0]
    numerator = 2 * (1 + momentum) * (rows if size is None else size)
    eps = arguments.get("eps", 1e-12)
    return dict.fromkeys(names, numerator / (numerator / rate + eps))


_EVALUATE = {
    "gradient_descent_mse": _mse,
    "gradient_descent": _gd,
    "gradient_descent_mse_ensemble": _ensemble,
    "gp_inference": _gp,
    "max_learning_rate": _max_learning_rate,
}
