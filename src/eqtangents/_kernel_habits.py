"""Arguments that other libraries have for kernels, and what takes their place here."""

from collections.abc import Sequence

from eqtangents._arguments import described
from eqtangents._signatures import Habits


_WHICH_KERNEL = (
    "Both kernels are `eqt.kernel(net, x1, x2)`, with `.nngp` and `.ntk`; one alone is "
    "`eqt.nngp(net, x1, x2)` or `eqt.ntk(net, x1, x2)`."
)
NOT_RANDOM = (
    "Kernels of infinitely wide networks are not random; estimates at finite width are "
    "`eqt.monte_carlo(net, x1, x2, key, n_samples)`."
)
_ELSEWHERE = {
    ("get",): _WHICH_KERNEL,
    ("params", "variables"): "Parameters play no role, or are inside of `net`.",
    ("key", "rng", "n_samples"): NOT_RANDOM,
    ("batch_size", "device_count", "store_on_device"): (
        "Examples are treated in tiles that fit the memory: leave it out."
    ),
    ("diag_reg", "noise", "noise_scale"): "Noise is given to `eqtangents.predict`.",
    ("mask_constant", "mask"): "Missing positions: `nn.Masked(value, mask)`.",
    ("pattern", "adjacency"): "Graphs are inputs: `nn.Graph(value, adjacency)`.",
    ("trace_axes", "diagonal_axes", "diagonal_batch", "diagonal_spatial"): (
        "What is needed is worked out from the network: leave it out."
    ),
}


def _instead_of_names(owner: str, names: Sequence[str], args: tuple) -> str | None:
    """What to write instead of names of kernels after the inputs."""
    if all(isinstance(one, str | tuple | list) for one in args[3:]):
        return f"was given {described(args[3])} after the inputs. {_WHICH_KERNEL}"
    return None


KERNEL_HABITS = Habits(
    {
        "x": ("x1",),
        "x_train": ("x1",),
        "inputs": ("x1",),
        "y": ("x2",),
        "x_test": ("x2",),
        "kernel_fn": ("net",),
        "model": ("net",),
        "network": ("net",),
    },
    {name: said for names, said in _ELSEWHERE.items() for name in names},
    _instead_of_names,
)

FINITE_HABITS = Habits(
    {
        "f": ("model", "net"),
        "fn": ("model", "net"),
        "apply_fn": ("model",),
        "init_fn": ("net",),
        "network": ("model", "net"),
        "x": ("x1",),
        "inputs": ("x1",),
        "x_train": ("x1",),
        "y": ("x2",),
        "x_test": ("x2",),
        "parameters": ("params",),
        "variables": ("params",),
        "samples": ("n_samples",),
        "num_samples": ("n_samples",),
        "rng": ("key",),
        "batch_size": ("chunk_size",),
        "get": ("kernels",),
        "degree": ("order",),
    },
    {
        "vmap_axes": "Examples are along the leading axis of each input.",
        "get": "One kernel alone is `eqt.empirical_ntk` or `eqt.empirical_nngp`.",
        "device_count": "Several devices are `mesh=jax.make_mesh((n,), ('rows',))`.",
        "store_on_device": "Results stay where they are computed: leave it out.",
    },
    lambda owner, names, args: None,
)
