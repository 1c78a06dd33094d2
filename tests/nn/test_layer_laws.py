"""Laws of every layer. A new one joins by a line in `LAYERS`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import eqtangents as eqt
from eqtangents import nn
from eqtangents.testing import check_layer
from precision import DTYPE


WIDTH, DRAWS = 48, 256


@dataclasses.dataclass(frozen=True)
class Case:
    """What stands between a first and a last `Linear`, and what it is given."""

    layers: Callable[[int], list]
    shape: tuple[int, ...] = (3, 5)
    readout: type = nn.GlobalAvgPool
    graph: str | None = None
    bias: float = 2.0  # of finite networks, in units of 1 / width

    def network(self, width: int) -> nn.Sequential:
        first = nn.Linear(width, weight_std=1.2, bias_std=0.3)
        readout = [self.readout(), nn.Linear(1, weight_std=1.1, bias_std=0.2)]
        return nn.Sequential([first, *self.layers(width), *readout])

    def adjacency(self) -> Any:
        """The graphs of four examples, for layers that need some."""
        if self.graph == "dense":
            shape = (4, self.shape[1], self.shape[1])
            weights = np.random.default_rng(2).uniform(0.0, 1.0, shape)
            return jnp.asarray(weights, DTYPE)
        if self.graph == "sparse":
            ends = np.random.default_rng(2).integers(-1, 4, (2, 4, 6), np.int32)
            weights = np.random.default_rng(3).uniform(0.5, 1.5, (4, 6))
            return nn.Edges(*map(jnp.asarray, ends), jnp.asarray(weights, DTYPE))
        return None

    def signal(self, x: jax.Array) -> Any:
        """A batch of four examples, with what the layer needs besides."""
        return x if self.graph is None else nn.Graph(x, self.adjacency())

    def obeys(self, *laws: Any) -> None:
        """Raise unless the layers, as one, obey some laws of `check_layer`."""
        check_layer(
            nn.Sequential([*self.layers(WIDTH), self.readout()]),
            (WIDTH, *self.shape[1:]),
            adjacency=self.adjacency(),
            finite_bias=self.bias,
            laws=laws,
        )


def position_of(layer):
    """What a layer gives out, at one position."""
    return nn.Sequential([layer, nn.Rearrange((), (), (1,))])


def attention(w, **options):
    sizes = {"key_channels": w, "value_channels": w, "heads": w, "bias_std": 0.2}
    return nn.GlobalSelfAttention(w, **sizes, **options)


def decay(distance):
    return jnp.exp(-0.3 * distance)


def transformer_block(w):
    norm = lambda: nn.LayerNorm(use_weight=True, use_bias=True)
    mlp = [norm(), nn.Linear(w, weight_std=1.4), nn.Gelu(), nn.Linear(w)]
    return [
        nn.Residual(nn.Sequential([norm(), attention(w)])),
        nn.Residual(nn.Sequential(mlp)),
    ]


def normalised(w):
    return nn.Sequential([nn.LayerNorm(), nn.Relu(), nn.Linear(w)])


IMAGE = {"shape": (2, 4, 3)}
LAYERS = {
    "Linear": Case(lambda w: [nn.Relu(), nn.Linear(w, bias_std=0.5), nn.Erf()], (3,)),
    "Linear_standard": Case(
        lambda w: [nn.Linear(w, bias_std=0.5, parameterization="standard"), nn.Erf()]
    ),
    "Conv": Case(lambda w: [nn.Relu(), nn.Conv(w, (2, 3), 2, "SAME")], **IMAGE),
    "Conv_padding": Case(lambda w: [nn.Conv(w, 3, padding=((2, 1),)), nn.Relu()]),
    "Conv_circular": Case(
        lambda w: [nn.Conv(w, 2, 2, "CIRCULAR", dilation=2, bias_std=0.1), nn.Relu()]
    ),
    "Conv_groups": Case(lambda w: [nn.Relu(), nn.Conv(w, 3, groups=2), nn.Relu()]),
    "Conv_depthwise": Case(
        lambda w: [nn.Relu(), nn.Conv(w, 3, groups=w), nn.Linear(w), nn.Relu()]
    ),
    "ConvTranspose": Case(
        lambda w: [nn.ConvTranspose(w, 3, 2, "SAME", bias_std=0.3), nn.Relu()]
    ),
    "ConvTranspose_valid": Case(
        lambda w: [nn.Relu(), nn.ConvTranspose(w, (3, 2), (2, 1)), nn.Erf()], **IMAGE
    ),
    "ConvTranspose_circular": Case(
        lambda w: [nn.ConvTranspose(w, 4, 2, "CIRCULAR"), nn.Relu()]
    ),
    "ConvLocal": Case(
        lambda w: [nn.ConvLocal(w, 3, padding="SAME", bias_std=0.4), nn.Relu()]
    ),
    "ConvLocal_pooled": Case(
        lambda w: [nn.Relu(), nn.ConvLocal(w, 2), nn.AvgPool(2), nn.Relu()]
    ),
    "GlobalSelfAttention": Case(lambda w: [attention(w), nn.Relu()]),
    "GlobalSelfAttention_relu": Case(
        lambda w: [attention(w, mechanism="relu"), nn.Relu()],
        readout=nn.Flatten,
        bias=16,  # the scores that the rectifier sees are noisy
    ),
    "GlobalSelfAttention_positions": Case(
        lambda w: [
            attention(
                w,
                mechanism="abs",
                positional=nn.PositionalEmbedding(std=0.7, decay=decay, on_values=True),
            ),
            nn.Relu(),
        ],
        **IMAGE,
        bias=20,
    ),
    "GlobalSelfAttention_root": Case(
        lambda w: [
            attention(
                w,
                linear_scaling=False,
                mechanism="identity",
                positional=nn.PositionalEmbedding("concat", channels=w // 2),
            ),
        ]
    ),
    "GlobalSelfAttention_reach": Case(
        lambda w: [attention(w, reach=((2, 0),)), nn.Relu()]
    ),
    "Attend": Case(
        lambda w: [
            nn.Wiring(
                [nn.Linear(w), nn.Linear(w), nn.Attend(reach=((None, 0),)), nn.Relu()],
                [[0], [0], [1, 1, 2], [3]],
            )
        ]
    ),
    "Attend_apart": Case(
        lambda w: [
            nn.Wiring(
                [nn.Linear(w), nn.Linear(w), nn.Relu(), nn.Attend(heads=2)],
                [[0], [0], [0], [1, 2, 3]],
            )
        ],
        bias=4,
    ),
    "Transformer": Case(transformer_block),
    "Wiring": Case(
        lambda w: [
            nn.Wiring(
                [nn.Relu(), nn.Linear(w), nn.FanInSum(), nn.Erf()],
                [(0,), (1,), (0, 2), (3,)],
            )
        ]
    ),
    "Learned": Case(
        lambda w: [
            nn.Wiring(
                [nn.Learned(std=0.7, axes=1), nn.Learned(std=0.4), nn.FanInSum()],
                [(0,), (0,), (0, 1, 2)],
            ),
            nn.Relu(),
        ]
    ),
    "Learned_standard": Case(
        lambda w: [
            nn.Wiring(
                [
                    nn.Learned(std=0.3, axes=2, parameterization="standard"),
                    nn.FanInSum(),
                ],
                [(0,), (0, 1)],
            ),
            nn.Relu(),
        ],
        **IMAGE,
    ),
    "ChannelGains": Case(lambda w: [nn.Relu(), nn.ChannelGains(0.6)]),
    "ChannelGains_one": Case(lambda w: [nn.ChannelGains(), nn.Relu()]),
    "Rearrange": Case(
        lambda w: [
            nn.Rearrange((2, 2, 3), (1, 3, 0, 2), (4, 6), repeats=(2,)),
            nn.Relu(),
        ],
        **IMAGE,
    ),
    "Pad": Case(
        lambda w: [nn.Relu(), nn.Pad(((1, 0, 1), (0, 2, 0))), nn.Linear(w)], **IMAGE
    ),
    "Unfold": Case(lambda w: [nn.Relu(), nn.Unfold((2, 1)), nn.Linear(w)], **IMAGE),
    "Unfold_axis": Case(lambda w: [nn.Unfold((1, 3)), nn.Linear(w)], **IMAGE),
    "AvgPool": Case(lambda w: [nn.Relu(), nn.AvgPool(3, 2, "SAME"), nn.Linear(w)]),
    "AvgPool_edges": Case(
        lambda w: [nn.AvgPool(3, 1, "SAME", normalize_edges=True), nn.Erf()], **IMAGE
    ),
    "SumPool": Case(lambda w: [nn.SumPool(2, 1, "CIRCULAR"), nn.Erf()]),
    "GlobalSumPool": Case(lambda w: [nn.Relu()], readout=nn.GlobalSumPool),
    "ChannelSum": Case(
        lambda w: [
            nn.FanOut(2),
            nn.Parallel([nn.Relu(), nn.Sequential([nn.Linear(w), nn.Erf()])]),
            nn.FanInProd(),
            nn.ChannelSum(),
            nn.Erf(),
        ],
        bias=4,
    ),
    "Flatten": Case(lambda w: [nn.Relu()], readout=nn.Flatten, **IMAGE),
    "Identity": Case(lambda w: [nn.Identity(), nn.Relu()], (3,)),
    "Scale": Case(
        lambda w: [nn.Scale(-1.3), nn.Relu(), nn.Scale(0.7), nn.Linear(w), nn.Relu()]
    ),
    "LayerNorm": Case(lambda w: [nn.LayerNorm(eps=0.1), nn.Relu()]),
    "LayerNorm_positions": Case(
        lambda w: [nn.LayerNorm((0, 1), use_weight=True, use_bias=True), nn.Relu()],
        **IMAGE,
    ),
    "LayerNorm_after_relu": Case(
        lambda w: [nn.Relu(), nn.LayerNorm(use_bias=True), nn.Linear(w), nn.Erf()]
    ),
    "RMSNorm": Case(
        lambda w: [nn.Relu(), nn.RMSNorm(use_weight=True), nn.Linear(w), nn.Relu()]
    ),
    "GroupNorm": Case(lambda w: [nn.GroupNorm(2, use_weight=True), nn.Relu()]),
    "Dropout": Case(lambda w: [nn.Relu(), nn.Dropout(0.3), nn.Conv(w, 2), nn.Relu()]),
    "ImageResize": Case(lambda w: [nn.ImageResize((6, None)), nn.Relu()], **IMAGE),
    "ImageResize_cubic": Case(lambda w: [nn.ImageResize((3,), "cubic"), nn.Relu()]),
    "Index": Case(lambda w: [nn.Index(nn.Slice[::-2, 1]), nn.Relu()], **IMAGE),
    "Index_take": Case(lambda w: [nn.Index(([0, 3, 3],)), nn.Conv(w, 2), nn.Relu()]),
    "DotGeneral": Case(
        lambda w: [
            nn.DotGeneral(
                rhs=np.linspace(-1.0, 1.0, 8).reshape(4, 2),
                dimension_numbers=(((0,), (0,)), ((), ())),
            ),
            nn.Relu(),
        ],
        **IMAGE,
    ),
    "Aggregate": Case(lambda w: [nn.Relu(), nn.Aggregate()], graph="dense"),
    "Aggregate_axis": Case(
        lambda w: [nn.Aggregate(1), nn.Relu()], (2, 4, 2), graph="dense"
    ),
    "Aggregate_after_attention": Case(
        lambda w: [
            attention(w, linear_scaling=False, mechanism="identity"),
            nn.Aggregate(),
        ],
        graph="dense",
    ),
    "Aggregate_sparse": Case(lambda w: [nn.Aggregate(), nn.Relu()], graph="sparse"),
    "FanInSum": Case(
        lambda w: [
            nn.FanOut(2),
            nn.Parallel([nn.Relu(), nn.Conv(w, 3, padding="SAME")]),
            nn.FanInSum(),
        ]
    ),
    "FanInProd": Case(
        lambda w: [
            nn.FanOut(2),
            nn.Parallel([nn.Relu(), nn.Sequential([nn.Linear(w), nn.Erf()])]),
            nn.FanInProd(),
        ]
    ),
    "FanInMax": Case(
        lambda w: [
            nn.FanOut(2),
            nn.Parallel([nn.Identity(), nn.Conv(w, 3, padding="SAME", bias_std=0.5)]),
            nn.FanInMax(),
        ]
    ),
    "FanInMin": Case(
        lambda w: [
            nn.FanOut(2),
            nn.Parallel([nn.Linear(w), nn.Linear(w, weight_std=0.3)]),
            nn.FanInMin(),
            nn.LayerNorm(),
        ]
    ),
    "FanInConcat": Case(
        lambda w: [
            nn.FanOut(2),
            nn.Parallel([nn.Linear(w), nn.Relu()]),
            nn.FanInConcat(1),
        ]
    ),
    "FanInConcat_of_vectors": Case(
        lambda w: [
            nn.FanOut(2),
            nn.Parallel([position_of(nn.Linear(w)), position_of(nn.Relu())]),
            nn.FanInConcat(1),
            nn.Linear(w),
        ],
        (3,),
    ),
    "FanInConcat_of_vectors_before_a_function": Case(
        lambda w: [
            nn.FanOut(2),
            nn.Parallel([position_of(nn.Linear(w)), position_of(nn.Linear(w))]),
            nn.FanInConcat(1),
            nn.Relu(),
        ],
        (3,),
    ),
    "Residual": Case(
        lambda w: [nn.Residual(nn.Sequential([nn.Relu(), nn.Linear(w)]))], (3,)
    ),
    "Repeat": Case(lambda w: [nn.Repeat(normalised(w), 2)]),
    "Repeat_attention": Case(lambda w: [nn.Repeat(attention(w), 2), nn.Relu()]),
}
each = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
MASKED = {name: case for name, case in LAYERS.items() if len(case.shape) == 2}
each_masked = pytest.mark.parametrize("case", MASKED.values(), ids=MASKED.keys())


MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
# Statistics do not depend on the precision: it is enough to sample once.
in_single_precision = pytest.mark.precision("float32")
in_double_precision = pytest.mark.precision("float64")  # for finite differences


def inputs(case, n, seed=0):
    return jr.normal(jr.key(seed), (n, *case.shape), DTYPE)


def test_every_layer_is_here():
    named = {name.split("_")[0] for name in LAYERS}
    exported = {
        name
        for name, value in vars(nn).items()
        if isinstance(value, type)
        and issubclass(value, nn.AbstractLayer)
        and not issubclass(value, nn.AbstractActivation)
        and not name.startswith("Abstract")
    }
    # Used by all cases; by those of branches; without kernels.
    elsewhere = {"Sequential", "GlobalAvgPool", "FanOut", "Parallel"}
    elsewhere |= {"Recurrent", "Last"}  # by `check_layer` as well
    # At the ends of networks alone, of models that are read.
    elsewhere |= {"Prepare", "MoveChannels", "Mix"}
    elsewhere |= {"Embedding"}  # of tokens, as the `Linear` of unit vectors
    finite_only = {"MaxPool", "BatchNorm"}
    assert exported - elsewhere - finite_only == named - {"Transformer"}


@in_single_precision
@each
@pytest.mark.slow
def test_kernels_are_symmetric_and_positive(case):
    case.obeys("shapes", "symmetry", "positivity")


@in_double_precision
@each
@pytest.mark.slow
def test_swapping_batches_transposes(case):
    case.obeys("swap")


@in_single_precision
@each
@pytest.mark.slow
@pytest.mark.sampled(2)
def test_examples_do_not_depend_on_their_batch(case):
    case.obeys("batching")


@in_single_precision
@each
@pytest.mark.slow
@pytest.mark.sampled(3)
def test_sampled_networks_have_these_kernels(case):
    case.obeys("finite width")


@in_single_precision
@pytest.mark.slow
def test_sampled_transformer_of_sequences_of_any_length_has_this_kernel():
    case = LAYERS["Transformer"]
    x, mask = inputs(case, 3), jnp.asarray(MASK)
    x = nn.Masked(jnp.where(mask[:, None], x, jnp.nan), mask)
    network = lambda w: nn.Sequential(
        [
            nn.Linear(w, bias_std=0.3),
            *transformer_block(w),
            *transformer_block(w),
            *transformer_block(w),
            *transformer_block(w),
            nn.GlobalAvgPool(),
            nn.Linear(1),
        ]
    )
    assert_sampled(network(WIDTH), x, case)


def assert_sampled(net, x, case):
    means, errors = sampled_kernels(net, x, case.shape)
    for name, mean, error in zip(("nngp", "ntk"), means, errors, strict=True):
        limit = np.asarray(getattr(eqt.kernel(net, x), name))
        excess = np.abs(mean - limit) - 5 * error
        # Networks of finite width have a bias of order 1 / width.
        bound = case.bias / WIDTH * np.abs(limit).max()
        assert excess.max() < bound, (name, mean, limit)


def sampled_kernels(net, x, shape):
    """Means and standard errors of the NNGP and the NTK of drawn networks."""

    def one(key):
        key, *keys = jr.split(key, 1 + jax.tree.leaves(x)[0].shape[0])
        model = net.init(shape, key=key)
        parameters, rest = eqx.partition(model, eqx.is_inexact_array)

        def output(parameters, x, key):
            out = eqx.combine(parameters, rest)(x, key=key)
            return (out.value if isinstance(out, nn.Masked) else out)[0]

        out, slopes = jax.vmap(jax.value_and_grad(output), (None, 0, 0))(
            parameters, x, jnp.stack(keys)
        )
        flat = jnp.concatenate(
            [leaf.reshape(out.shape[0], -1) for leaf in jax.tree.leaves(slopes)], 1
        )
        return jnp.outer(out, out), flat @ flat.T

    # In a loop of JAX's, convolutions would be slow.
    keys, some = jr.split(jr.key(1), DRAWS), eqx.filter_jit(jax.vmap(one))
    draws = [some(keys[i : i + 20]) for i in range(0, DRAWS, 20)]
    draws = [np.concatenate(parts) for parts in zip(*draws, strict=True)]
    return [d.mean(0) for d in draws], [d.std(0) / DRAWS**0.5 for d in draws]


@in_double_precision
@each
@pytest.mark.slow
def test_gradients_are_finite_and_right(case):
    net, x = case.network(WIDTH), inputs(case, 2)
    special = jnp.stack([x[0], x[0], -x[0], jnp.zeros_like(x[0])])
    cotangent = jr.normal(jr.key(3), (4, 4), DTYPE)

    @eqx.filter_jit
    def slope(x, direction):
        def total(x):
            kernel = eqt.kernel(net, case.signal(x))
            return jnp.sum(cotangent * (kernel.nngp + kernel.ntk))

        return jax.value_and_grad(total)(x)

    assert np.all(np.isfinite(slope(special, special)[1]))
    x = inputs(case, 4, seed=4)
    direction, step = jr.normal(jr.key(5), x.shape, DTYPE), 1e-5
    above, below = (slope(x + s * step * direction, x)[0] for s in (1, -1))
    expected = (above - below) / (2 * step)
    actual = jnp.sum(slope(x, x)[1] * direction)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@in_single_precision
@each_masked
@pytest.mark.slow
@pytest.mark.sampled(2)
def test_missing_positions_do_not_matter(case):
    case.obeys("masks")


@pytest.mark.slow
def test_gains_are_remembered_until_the_next_weights():
    gained, offset = nn.LayerNorm(use_weight=True), nn.LayerNorm(use_bias=True)
    x = inputs(Case(lambda w: [], (3,)), 2)
    for norms in ([gained, offset], [gained, nn.RMSNorm()]):
        with pytest.raises(nn.LayerError, match="trained gains"):
            eqt.kernel(nn.Sequential([nn.Linear(8), *norms, nn.Tanh()]), x)
        eqt.kernel(nn.Sequential([nn.Linear(8), *norms, nn.Linear(8), nn.Tanh()]), x)


@pytest.mark.parametrize("kind", [nn.Tanh, nn.Silu, nn.Sin, nn.Relu])
def test_gains_right_before_a_function(kind):
    """The tangent kernel of gains alone is E u f'(u) v f'(v): a sum over nodes here."""
    function = kind()
    z, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    norm = [nn.Linear(8), nn.RMSNorm(use_weight=True)]
    x = jr.normal(jr.key(0), (2, 3), DTYPE)
    k = np.asarray(eqt.nngp(nn.Sequential(norm), x), float)
    lower = np.linalg.cholesky(k)
    u, v = lower[0, 0] * z[:, None], lower[1, 0] * z[:, None] + lower[1, 1] * z

    def along(x):
        x = jnp.asarray(x, DTYPE)
        return np.asarray(jax.jvp(function.function, (x,), (x,))[1], float)

    expected = np.einsum("ij,i,j", along(u) * along(v), weights, weights)
    net = nn.Sequential([*norm, function, nn.Linear(1)])
    params = net.init((3,), key=jr.key(1))
    trainable = eqx.tree_at(
        lambda one: one.layers[1].weight, jax.tree.map(lambda _: False, params), True
    )
    actual = eqt.ntk(net, x, trainable=trainable)[0, 1]
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)


PASSING = {
    "Identity": nn.Identity(),
    "Dropout_inference": nn.Dropout(0.3, inference=True),
    "Dropout_nothing": nn.Dropout(0.0),
    "Sequential_nothing": nn.Sequential([]),
    "FanOut": nn.FanOut(2),
    "Parallel": nn.Sequential([nn.FanOut(2), nn.Parallel([nn.Identity()] * 2)]),
    "Residual": nn.Residual(nn.Identity()),
    "Repeat": nn.Repeat(nn.Identity(), 2),
    "MaxPool": nn.MaxPool(1),
    "BatchNorm": nn.BatchNorm(),
}


@pytest.mark.parametrize("layer", PASSING.values(), ids=PASSING.keys())
def test_layers_that_pass_their_input_on_clear_what_is_missing(layer):
    """Others are compositions, whose law is that missing positions do not matter."""
    x = jr.normal(jr.key(0), (3, 2, 5), DTYPE)
    x = nn.Masked(jnp.where(MASK[:, None], x, jnp.nan), MASK)
    layer = layer.init((2, 5), key=jr.key(1))
    for signal in (x, nn.Graph(x, jnp.zeros((3, 5, 5), DTYPE))):
        out = jax.vmap(layer, axis_name="batch")(signal)
        is_masked = lambda node: isinstance(node, nn.Masked)
        masked = filter(is_masked, jax.tree.leaves(out, is_leaf=is_masked))
        zero = [np.where(one.mask[:, None], 0, one.value) == 0 for one in masked]
        assert zero
        assert np.all(zero)


def test_kernels_of_layers_that_pass_their_input_on_do_not_see_what_is_missing():
    x = jr.normal(jr.key(0), (3, 2, 5), DTYPE)
    layers = [nn.Identity(), nn.Dropout(0.3, inference=True), nn.Sequential([])]
    net = nn.Sequential([*layers, nn.GlobalAvgPool()])
    kernel = lambda fill: eqt.nngp(
        net, nn.Masked(jnp.where(MASK[:, None], x, fill), MASK)
    )
    np.testing.assert_array_equal(kernel(jnp.nan), kernel(0.0))
