import functools
import itertools
import pathlib

import hypothesis
import jax
import jax.random as jr
import jaxtyping
import pytest


jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The first example of a property compiles: no deadline would be fair.
hypothesis.settings.register_profile("eqtangents", deadline=None)
hypothesis.settings.load_profile("eqtangents")


@pytest.fixture
def getkey():
    """A new key each call, but the same ones each run: statistical tests need that."""
    keys = map(functools.partial(jr.fold_in, jr.key(0)), itertools.count())
    return lambda: next(keys)


@pytest.fixture
def without_jaxtyping():
    """As users have it, without the hook that checks shapes before our own messages."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True)
def _few_mappings():
    """Drop compiled programs in time: each is dozens of memory mappings.

    Linux lets a process have 65,530 of them, and beyond that XLA dies.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()
