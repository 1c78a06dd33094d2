"""Predictions from kernels: what infinitely wide networks say about new inputs."""

from eqtangents.predict._gaussian_process import GaussianProcess as GaussianProcess
