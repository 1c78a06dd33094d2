"""The posterior mean of the arc-cosine kernel, by conjugate gradients of GPyTorch."""

import contextlib
import math

import gpytorch
import torch

from benchmarks.children.solves import child


class ArcCosine(gpytorch.kernels.Kernel):
    """The NNGP of one hidden layer of rectifiers, by its formula (Cho & Saul 2009)."""

    def forward(self, x1, x2, diag=False, **_):
        scale = 2 / x1.shape[-1]
        v1, v2 = (scale * (x**2).sum(-1) for x in (x1, x2))
        if diag:
            return v1 / 2
        product = torch.sqrt(v1[..., :, None] * v2[..., None, :])
        cosine = (scale * x1 @ x2.transpose(-1, -2) / product).clamp(-1, 1)
        angle = torch.arccos(cosine)
        rest = (math.pi - angle) * cosine
        return product * (torch.sin(angle) + rest) / (2 * math.pi)


class Process(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood):
        super().__init__(x, y, likelihood)
        self.mean, self.kernel = gpytorch.means.ZeroMean(), ArcCosine()

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean(x), self.kernel(x))


def solve(job, x, y, x_new):
    x, y, x_new = map(torch.from_numpy, (x, y, x_new))
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    likelihood.noise = job["noise"]
    process = Process(x, y, likelihood).to(x.dtype).eval()
    settings = gpytorch.settings
    with contextlib.ExitStack() as stack:
        for one in (
            torch.no_grad(),
            settings.fast_computations(solves=True),
            settings.max_cholesky_size(0),
            settings.min_preconditioning_size(1),
            settings.max_preconditioner_size(job["rank"]),
            settings.eval_cg_tolerance(job["rtol"]),
            settings.max_cg_iterations(1000),
            settings.skip_posterior_variances(),
        ):
            stack.enter_context(one)
        return process(x_new).mean.numpy()


if __name__ == "__main__":
    child("gpytorch", solve)
