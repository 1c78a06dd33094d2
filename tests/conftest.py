import collections
import functools
import importlib.metadata
import itertools
import os
import pathlib

import hypothesis
import jax
import jax.random as jr
import jaxtyping
import pytest


# Processes of `pytest-xdist` inherit this: BLAS threads of theirs would wait for cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# XLA starts so many threads. Devices made of fewer cores may take them all to wait for
# each other, in loops that add up over devices, and wait for ever.
os.environ.setdefault("NPROC", "16")

# Programs run once here, so that to optimise them costs more time than it saves. These
# flags halve the time to compile; XLA refuses to start with flags it does not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    flags = (
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    )
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
jax.config.update("jax_enable_x64", False)  # but see `precision`
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# The first example of a property compiles: no deadline would be fair.
hypothesis.settings.register_profile("eqtangents", deadline=None)
hypothesis.settings.load_profile("eqtangents")

PRECISIONS = ("float64", "float32")


def pytest_addoption(parser):
    about = "also run tests marked `exhaustive`, which take an hour more"
    parser.addoption("--exhaustive", action="store_true", help=about)


def pytest_generate_tests(metafunc):
    """Each test runs in both precisions, or in those that its mark names.

    Of both, the second is left to those who have the time.
    """
    mark = metafunc.definition.get_closest_marker("precision")
    first, *others = PRECISIONS if mark is None else mark.args
    assert {first, *others} <= set(PRECISIONS)
    others = [pytest.param(name, marks=pytest.mark.slow) for name in others]
    metafunc.parametrize("precision", [first, *others], indirect=True, scope="session")


# In its second precision, one case of a test in so many is not exhaustive.
ONE_IN = 10


def pytest_collection_modifyitems(config, items):
    """Mark the cases of each test that are slow, and that are exhaustive."""
    counts = collections.Counter()
    for item in items:
        mark = item.get_closest_marker("precision")
        names = PRECISIONS if mark is None else mark.args
        second = item.callspec.params["precision"] != names[0]
        test = item.path, item.originalname, second
        quick = item.get_closest_marker("quick")
        if quick is not None and counts[test] >= quick.args[0]:
            item.add_marker("slow")
        sampled = item.get_closest_marker("sampled")
        one_in = ONE_IN if second else 1 if sampled is None else sampled.args[0]
        if counts[test] % one_in:
            item.add_marker("exhaustive")
        counts[test] += 1
    if not config.getoption("exhaustive"):
        _leave_out("exhaustive", config, items)
    if "reproduction" not in config.option.markexpr:
        _leave_out("reproduction", config, items)


def _leave_out(mark, config, items):
    left = [x for x in items if x.get_closest_marker(mark) is not None]
    items[:] = [x for x in items if x.get_closest_marker(mark) is None]
    config.hook.pytest_deselected(items=left)


@pytest.fixture(scope="session", autouse=True)
def precision(request):
    """The name of the floating-point type that JAX uses unless told otherwise.

    It is set as users set it, for all threads. A fixture of a wider scope than one test
    has to ask for this one, or it would keep arrays of the first precision.
    """
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield request.param
    jax.config.update("jax_enable_x64", before)


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that is skipped without a reason fails."""
    report = yield
    if report.skipped and not skip_reason(report):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped without a reason"
    return report


def skip_reason(report):
    """Why a test was skipped or was expected to fail; empty if nobody said."""
    if hasattr(report, "wasxfail"):
        return report.wasxfail.removeprefix("reason: ").strip()
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    reason = reason.removeprefix("Skipped:").strip()
    return "" if reason in ("unconditional skip", "<Skipped instance>") else reason
