"""A user's script, with what type checkers say of it: read by them, never run.

A comment tells the type that is revealed, or that the line is a mistake, and by which
rule of pyright.
"""

from collections.abc import Callable
from typing import reveal_type

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

import eqtangents as eqt
from eqtangents import nn, predict


key = jax.random.key(0)
x, y = jax.random.normal(key, (4, 3)), jax.random.normal(key, (4, 1))
net = nn.Sequential([nn.Linear(8), nn.Relu(), nn.Linear(1)])
mlp = eqx.nn.MLP(3, 1, 8, 1, key=key)


def f(p: Array, x: Array) -> Array:
    return p @ x


# Kernels of infinite width.
reveal_type(eqt.kernel(net, x))  # Kernel
reveal_type(eqt.kernel(net, x).ntk)  # Array
reveal_type(eqt.nngp(net, x))  # Array
reveal_type(eqt.ntk(net, x, x))  # Array
reveal_type(eqt.ntk(net, nn.Masked.pad([x.T])))  # Array
reveal_type(eqt.ntk(net, (x, x)))  # Matrices
reveal_type(eqt.kernel_diagonal(net, x))  # Kernel
reveal_type(eqt.nngp_diagonal(net, x))  # Array
reveal_type(eqt.ntk_diagonal(net, x))  # Array
reveal_type(eqt.from_equinox(mlp))  # AbstractLayer
print(eqt.kernel(net, x).nntk)  # mistake: reportAttributeAccessIssue
eqt.kernel(net, [1.0, 2.0])  # mistake: reportCallIssue
eqt.kernel(mlp, x)  # mistake: reportCallIssue
eqt.ntk(net, x, get="ntk")  # mistake: reportCallIssue
eqt.kernel_diagonal(net, 1.0)  # mistake: reportCallIssue

# Layers.
reveal_type(net)  # Sequential
reveal_type(net.init((3,), key=key))  # Sequential
reveal_type(net(x[0]))  # Array
reveal_type(nn.Linear(8)(x[0]))  # Array
reveal_type(nn.Relu()(x[0]))  # Array
reveal_type(nn.Relu().init((3,), key=key))  # Relu
reveal_type(nn.GlobalAvgPool()(x))  # Array
reveal_type(nn.Dropout(0.5)(x[0], key=key))  # Array
reveal_type(nn.Residual(net)(x[0]))  # Array
reveal_type(nn.FanOut(2)(x[0]))  # tuple[Array, ...]
reveal_type(nn.Parallel([net, net])((x[0], x[0])))  # tuple[Array, ...]
reveal_type(nn.FanInSum()((x[0], x[0])))  # Array
reveal_type(nn.Relu()(nn.Masked(x.T, x[:, 0] > 0)))  # Masked
reveal_type(nn.Masked.pad([x.T]))  # Masked
function: Callable[[Array], Array] = nn.Relu()
network: Callable[[Array], Array] = net
nn.Linear(8, W_std=1.5)  # mistake: reportCallIssue
nn.Linear("8")  # mistake: reportArgumentType
nn.Sequential([eqx.nn.Linear(3, 8, key=key)])  # mistake: reportArgumentType
nn.Conv(8, 3, padding="FULL")  # mistake: reportArgumentType

# Networks of finite width.
reveal_type(eqt.empirical_ntk(mlp, x))  # Array
reveal_type(eqt.empirical_ntk(f, x, None, x, trainable=eqx.is_array))  # Array
reveal_type(eqt.empirical_nngp(mlp, x, x, trace_axes=()))  # Array
reveal_type(eqt.empirical_kernel(mlp, x))  # Kernel
reveal_type(eqt.empirical_kernel(mlp, x).ntk)  # Array
reveal_type(eqt.empirical_ntk_by_leaf(mlp, x))  # MLP
reveal_type(eqt.empirical_ntk_by_leaf(f, x, None, {"w": x}))  # dict[str, Array]
reveal_type(eqt.explain_empirical_ntk(mlp, x))  # Explanation
reveal_type(eqt.NTKOperator(mlp, x))  # NTKOperator
reveal_type(eqt.NTKOperator(mlp, x).as_matrix())  # Array
reveal_type(eqt.empirical_ntk(mlp, (x, x)))  # Tree[Array]
eqt.empirical_ntk(mlp, [1.0, 2.0])  # mistake: reportCallIssue
eqt.empirical_ntk(mlp, x, trace_axis=(0,))  # mistake: reportCallIssue

both = eqt.monte_carlo(net, x, None, key, 4)
running = eqt.running_monte_carlo(net, x, None, key, [4], kernels="ntk")
reveal_type(both)  # Estimate[Kernel]
reveal_type(both.mean)  # Kernel
reveal_type(both.standard_error.ntk)  # Array
reveal_type(eqt.monte_carlo(net, x, None, key, 4, kernels="nngp").mean)  # Array
reveal_type(running)  # Iterator[Estimate[Array]]
reveal_type(eqt.estimate_trace(eqt.NTKOperator(mlp, x), key, 4).mean)  # Array
eqt.monte_carlo(net, x, None, key, 4, kernels="ntks")  # mistake: reportCallIssue

reveal_type(eqt.linearize(mlp))  # TaylorModel[MLP]
reveal_type(eqt.linearize(mlp).model)  # MLP
reveal_type(eqt.linearize(mlp)(x[0]))  # Array
reveal_type(eqt.linearize(f, x))  # TaylorFunction
reveal_type(eqt.taylorize(mlp, 2))  # TaylorModel[MLP]
reveal_type(eqt.taylorize(f, 2, x)(x, x[0]))  # Array
print(eqt.linearize(f, x).model)  # mistake: reportAttributeAccessIssue
eqt.linearize(3)  # mistake: reportArgumentType

# Predictors.
posterior = predict.GaussianProcess(eqt.nngp(net, x), y, noise=0.1)
steps = predict.GradientDescent(predict.cross_entropy, eqt.ntk(net, x), y)
training = predict.GradientDescentMSE(eqt.ntk(net, x), y)
ensemble = predict.Ensemble(eqt.kernel(net, x), y)
reveal_type(posterior.mean(eqt.nngp(net, x, x)))  # Array
reveal_type(posterior.condition(x, x, y))  # GaussianProcess
reveal_type(posterior.leave_one_out())  # tuple[Array, Array]
reveal_type(training.test_outputs(1.0, eqt.ntk(net, x, x)))  # Array
reveal_type(training.spectrum.values)  # Array
reveal_type(steps.states(1.0))  # TrainingState
reveal_type(steps.test_outputs(steps.states(1.0), eqt.ntk(net, x, x)))  # Array
reveal_type(ensemble.mean(jnp.inf, eqt.kernel(net, x, x)))  # Array
reveal_type(ensemble.train_covariance(1.0))  # Array
reveal_type(predict.max_learning_rate(eqt.ntk(net, x)))  # Array
predict.GaussianProcess(eqt.kernel(net, x), y)  # mistake: reportArgumentType
predict.GradientDescentMSE(eqt.ntk(net, x), y, nois=0.1)  # mistake: reportCallIssue
predict.Ensemble(eqt.ntk(net, x), y)  # mistake: reportArgumentType
posterior.men(x)  # mistake: reportAttributeAccessIssue

gp = predict.GaussianProcess
of_inputs = predict.FromNetwork(gp, net, x, y, noise=0.1)
over_time = predict.FromNetwork(predict.Ensemble, net, x, y)
reveal_type(of_inputs)  # FromNetwork[GaussianProcess]
reveal_type(of_inputs.predictor)  # GaussianProcess
reveal_type(of_inputs.mean(x))  # Array
reveal_type(of_inputs.log_marginal_likelihood())  # Array
reveal_type(over_time.variance(1.0, x))  # Array
predict.FromNetwork(gp, net, x, y, nois=0.1)  # mistake: reportCallIssue
over_time.mean(x)  # mistake: reportCallIssue
of_inputs.train_mean(1.0)  # mistake: reportAttributeAccessIssue
