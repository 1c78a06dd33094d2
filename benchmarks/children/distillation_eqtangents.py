"""A step of dataset distillation by eqtangents."""

import eqtangents as eqt
from benchmarks.children.clock import child
from benchmarks.children.distillation import step
from benchmarks.children.kernels_eqtangents import sequential
from eqtangents import predict


def work(job, arrays):
    net = sequential(job["network"])

    def mean(x_support, y_support, x_target):
        kernel = eqt.ntk(net, x_support)
        trained = predict.GaussianProcess(
            kernel, y_support, relative_noise=job["ridge"]
        )
        return trained.mean(eqt.ntk(net, x_target, x_support))

    return step(mean, job, arrays["x_support"], arrays)


if __name__ == "__main__":
    child("eqtangents", work)
