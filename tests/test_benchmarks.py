"""What benchmarks count and compare; that they run is seen by `nox -s bench-smoke`."""

import importlib
import json
import re
import time

import numpy as np
import pytest

from benchmarks import floors, harness, history, rows
from benchmarks.cases import kernels as k


pytestmark = pytest.mark.precision("float32")  # nothing here depends on it


# ------------------------------------------------------------------------------------
# The least work.
# ------------------------------------------------------------------------------------


def traced(network, size, wanted, layers):
    """Pairs of positions of images that pairs of output positions depend on."""
    sizes = [size]
    for kind, arguments in network:
        sizes.append(floors.size_after(kind, arguments, sizes[-1]))
    for (kind, arguments), before, after in zip(
        network[::-1], sizes[-2::-1], sizes[:0:-1], strict=True
    ):
        if kind == "relu":
            layers.append(len(wanted))
        elif kind == "residual":
            branches = [arguments["main"], arguments["shortcut"] or []]
            both = [traced(branch, before, wanted, layers) for branch in branches]
            wanted = both[0] | both[1]
        elif kind != "linear":
            wanted = {
                (p, q)
                for p in np.ndindex(*before)
                for q in np.ndindex(*before)
                if any(
                    depends(kind, arguments, before, after, p, q, *pair)
                    for pair in wanted
                )
            }
    return wanted


def depends(kind, arguments, before, after, p, q, p_out, q_out):
    """Whether the covariance of two outputs of a layer needs that of two inputs."""
    if kind in ("flatten", "global_avg_pool"):
        return kind == "global_avg_pool" or p == q
    ways = []
    for axis in zip(before, after, p, q, p_out, q_out, strict=True):
        *sizes, inner, inner2, one, other = axis
        if kind == "avg_pool":
            window = arguments["size"]
            ways.append((inner // window, inner2 // window) == (one, other))
        else:
            taps = taps_of(arguments, arguments["kernel_size"][len(ways)], *sizes)
            both = zip(taps[one], taps[other], strict=True)
            ways.append((inner, inner2) in both)
    return all(ways)


def taps_of(arguments, window, size, size_out):
    """What each output of a convolution reads along an axis, offset by offset."""
    stride, padding = arguments["stride"], arguments["padding"]
    padded = max((size_out - 1) * stride + window - size, 0)
    first = 0 if padding == "VALID" else -(padded // 2)
    taps = stride * np.arange(size_out)[:, None] + first + np.arange(window)
    return taps % size if padding == "CIRCULAR" else taps


def convolution(stride=1, padding="SAME"):
    return k.conv(kernel_size=(3, 2), stride=stride, padding=padding)


def networks():
    """Random ones, with both readouts."""
    rng = np.random.default_rng(0)
    parts = [
        [convolution(), k.RELU],
        [convolution(2), k.RELU],
        [convolution(padding="CIRCULAR"), k.RELU],
        [convolution(padding="VALID"), k.RELU],
        [k.HALVE],
        [k.residual([k.RELU, convolution()])],
        [k.residual([k.RELU, convolution(2)], [convolution(2)])],
    ]
    for i in range(2 * len(parts)):
        body = [*parts[i // 2], *parts[rng.integers(len(parts) - 1)]]
        yield [*body, (k.FLATTEN, k.GLOBAL_AVG_POOL)[i % 2], k.linear()]


@pytest.mark.slow
def test_demand_is_what_a_readout_depends_on():
    for network in networks():
        layers, traced_layers = [], []
        wanted = floors.demand(network, (5, 3), (), layers)
        pairs = traced(network, (5, 3), {((), ())}, traced_layers)
        assert layers == traced_layers
        assert {(p, q) for p, q in pairs} == {
            ((p1, p2), (q1, q2))
            for p1, q1 in np.argwhere(wanted[0])
            for p2, q2 in np.argwhere(wanted[1])
        }


def test_axes_multiply_and_examples_pair_up():
    body = [k.RELU, k.HALVE, k.RELU, k.GLOBAL_AVG_POOL]
    line = [k.conv(kernel_size=(3,)), *body]
    square = [k.conv(kernel_size=(3, 3)), *body]
    one, two = [], []
    floors.demand(line, (8,), (), one)
    floors.demand(square, (8, 8), (), two)
    assert two == [count**2 for count in one]

    whole = floors.kernel_work(line, (3, 8), n=4)
    symmetric = floors.kernel_work(line, (3, 8), n=4, symmetric=True)
    assert symmetric.arithmetic / whole.arithmetic == 10 / 16
    assert whole.arithmetic == 16 * sum(one) * floors.OPERATIONS_OF_A_LAYER
    double = floors.kernel_work(line, (3, 8), n=4, itemsize=8)
    assert double.moved == 2 * whole.moved


def test_an_unknown_layer_is_not_counted_silently():
    with pytest.raises(ValueError, match="'attention' needs is not known"):
        floors.kernel_work([["attention", {}], k.FLATTEN], (3, 8), n=2)


def test_the_slower_of_operations_and_bytes_is_the_floor():
    rates = {"matmul_gflop_per_s": 100.0, "copy_gb_per_s": 10.0}
    work = floors.Work(products=1e9, arithmetic=2e9)
    assert floors.least_seconds(work, rates) == pytest.approx(0.05)
    assert floors.least_seconds(floors.Work(1e9, 2e9, 1e9), rates) == pytest.approx(0.1)


# ------------------------------------------------------------------------------------
# Rows and what they are compared with.
# ------------------------------------------------------------------------------------


def record(*run_s, compile_s=1.0, **more):
    versions = {"jax": "0", "jaxlib": "0"}
    return {"compile_s": compile_s, "run_s": run_s, "peak_mib": 1.0, "device": "cpu",
            "versions": versions, **more}  # fmt: skip


def measured(ours, theirs=None, *, double=None, commit="a", cores=2, time="1"):
    """The rows of a case of one network, as a file gives them."""
    work, ran = floors.Work(arithmetic=1e9), {}
    job = {"network": k.fully_connected(2)}
    runs = {
        "eqtangents": harness.Run(harness.OURS, "", job, units=4, least=work),
        "eqtangents float64": harness.Run(harness.OURS, "", job, "float64", units=4),
        "reference": harness.Run(harness.REFERENCE, "", job, units=2),
    }
    rates = {"matmul_gflop_per_s": 4.0, "copy_gb_per_s": 1.0}
    ran["eqtangents"] = [record(2 * ours, ours, **rates), record(3 * ours, **rates)]
    if double is not None:
        ran["eqtangents float64"] = [record(double)]
    if theirs is not None:
        ran["reference"] = [record(theirs, compile_s=4.0)]
    case = harness.Case("a network", dict, runs, lambda answers: {})
    about = {"topic": "kernels", "case": "fc", "tiny": False, "time": time}
    about |= {"commit": commit, "processor": "one", "cores": cores, "platform": "cpu"}
    found = rows.rows_of(case, ran, {"error": 0.0}, about | {"system": "Linux"})
    return [json.loads(json.dumps(row)) for row in found]


def test_ratios_are_of_the_shortest_runs_by_unit():
    first, second, _ = measured(1.0, 5.0, double=2.5)
    assert first["counts"]
    assert not second["counts"]
    assert first["times_as_fast"] == 10.0  # the reference did half of the units
    assert first["compile_over_reference"] == 0.25
    assert second["over_float32"] == 2.5
    assert first["over_floor"] == 1.0 / 0.5
    assert first["run_s_median"] == 2.0


def test_the_reference_of_an_earlier_run_counts_on_the_same_machine_alone():
    earlier = measured(1.0, 5.0, time="1") + measured(1.0, 6.0, time="2")
    (now,) = history.newest(earlier + measured(1.0, commit="b", time="3"))
    assert now["times_as_fast"] == 12.0
    assert now["reference_time"] == "2"
    elsewhere = measured(1.0, commit="b", cores=3, time="3")
    assert "times_as_fast" not in history.newest(earlier + elsewhere)[-1]


def test_the_commit_before_is_the_last_other_one():
    log = [
        *measured(4.0, commit="a"),
        *measured(3.0, commit="b"),
        *measured(9.0, commit="b", cores=3),
        *measured(2.0, commit="c"),
        *measured(1.0, commit="c"),
    ]
    now = next(row for row in history.newest(log) if row["cores"] == 2)
    assert (now["times_as_before"], now["previous_commit"]) == (3.0, "b")
    assert "times_as_before" not in history.newest(measured(1.0))[0]


def test_a_page_is_whole_and_says_what_is_missing(tmp_path):
    pytest.importorskip("matplotlib", reason="draws the page")
    page = importlib.import_module("benchmarks.page")
    text = page.page(history.newest(measured(1.0, double=2.0)))
    assert "Never measured with the reference here: fc." in text
    assert "no rows of an earlier commit" in text
    assert text.count("<tr>") == 3
    assert not re.search(r"""(src|href)=["'](?!#)""", text)  # it needs nothing else
    log = measured(1.0, 5.0) + measured(1.0, commit="b", time="2")
    text = page.page(history.newest(log))
    assert "Never" not in text
    assert "times of 1 to 1, on the same machine" in text


def test_a_process_may_take_what_is_left():
    now = time.monotonic()
    assert harness.Options(None).seconds_left() is None
    assert harness.Options(None, timeout=5.0).seconds_left() == 5.0
    assert harness.Options(None, timeout=5.0, deadline=now).seconds_left() == 0.0
    left = harness.Options(None, timeout=900.0, deadline=now + 60).seconds_left()
    assert left is not None
    assert left <= 60.0
