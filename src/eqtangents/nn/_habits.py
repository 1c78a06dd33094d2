"""What users of other libraries write, and what to write here."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx

from eqtangents._arguments import described
from eqtangents._other_names import Said
from eqtangents._signatures import Habits, check_constructor
from eqtangents._types import is_integer


_NAMES_OF_OUTPUTS = ("out_features", "out_channels")
_NEW_NAMES = {
    ("w_std", "sigma_w", "weight_scale"): ("weight_std",),
    ("b_std", "sigma_b", "bias_scale"): ("bias_std",),
    ("out_dim", "out_size", "output_size", "units", "features", "num_features"): (
        *_NAMES_OF_OUTPUTS,
        "embedding_size",
    ),
    ("embedding_dim", "embed_dim", "output_dim"): ("embedding_size",),
    ("vocab_size", "vocabulary_size", "n_tokens"): ("num_embeddings",),
    ("out_chan", "filters", "n_chan_out", "width", "out_features"): _NAMES_OF_OUTPUTS,
    ("out_channels", "channels"): _NAMES_OF_OUTPUTS,
    ("filter_shape", "window_shape", "kernel_shape", "filter_size"): ("kernel_size",),
    ("kernel", "window", "pool_size"): ("kernel_size",),
    ("strides",): ("stride",),
    ("pad", "pads"): ("padding",),
    ("window_init", "w_init", "kernel_init", "initializer"): ("weight_init",),
    ("tap_weights", "kernel_variances", "variances"): ("tap_variances",),
    ("rhs_dilation", "kernel_dilation", "dilations"): ("dilation",),
    ("feature_group_count", "num_groups", "n_groups"): ("groups",),
    ("s",): ("width_multipliers",),
    ("rate", "prob", "drop_rate", "dropout_rate"): ("p",),
    ("num_heads", "n_heads", "n_head"): ("heads",),
    ("n_chan_key", "qk_size", "key_size"): ("key_channels",),
    ("n_chan_val", "vo_size", "value_size"): ("value_channels",),
    ("w_key_std",): ("key_std",),
    ("w_query_std",): ("query_std",),
    ("w_value_std",): ("value_std",),
    ("w_out_std",): ("output_std",),
    ("w_pos_emb_std",): ("std", "positional"),
    ("n_chan_pos_emb",): ("channels", "positional"),
    ("pos_emb_type",): ("kind", "positional"),
    ("pos_emb_p_norm",): ("p_norm", "positional"),
    ("pos_emb_decay_fn",): ("decay", "positional"),
    ("val_pos_emb",): ("on_values", "positional"),
    ("attention_mechanism",): ("mechanism",),
    ("a", "alpha", "slope"): ("negative_slope",),
    ("b", "beta"): ("positive_slope",),
    ("axis",): ("axes",),
    ("axes",): ("axis",),
    ("epsilon", "variance_epsilon"): ("eps",),
    ("elementwise_affine", "affine", "channelwise_affine"): ("use_weight",),
    ("n_rep", "times", "n_layers", "num_layers", "n_branches", "num_branches"): ("n",),
    ("f", "func", "function", "activation"): ("fn",),
    ("order", "power", "n", "deg"): ("degree",),
    ("coef", "coefs", "coeffs"): ("coefficients",),
    ("idx",): ("index",),
    ("size", "target_shape"): ("shape",),
    ("nngp_fn",): ("dual",),
    ("d_nngp_fn", "d_nngp"): ("dual_derivative",),
    ("pattern", "graph", "edges"): ("adjacency",),
    ("x", "inputs", "values", "data"): ("value",),
    ("mask_constant", "masks"): ("mask",),
}
_INPUTS_ARE_COUNTED = (
    "Inputs are counted by `init`, from the shape of an example: leave it out."
)
_BIAS = "For a bias give `bias_std=1.0`, say; without `bias_std` there is none."
_AXES_ARE_OF_ONE_EXAMPLE = (
    "Axes are those of one example, channels first, `(channels, *spatial)`: leave it "
    "out."
)
_REMARKS = {
    ("key", "rng", "seed"): (
        "Random keys go to `net.init(shape, key=key)`: layers are made without "
        "parameters."
    ),
    (
        "in_features",
        "in_channels",
        "in_size",
        "in_dim",
        "input_size",
    ): _INPUTS_ARE_COUNTED,
    ("num_spatial_dims", "query_size", "input_shape"): _INPUTS_ARE_COUNTED,
    ("bias", "use_bias"): _BIAS,
    ("padding_mode",): (
        'Zeros are padded, or with `padding="CIRCULAR"` the input over again.'
    ),
    ("dtype",): "Kernels have the dtype of the inputs: leave it out.",
    ("do_backprop", "do_stabilize"): "There is nothing to choose: leave it out.",
    ("dimension_numbers", "channel_axis", "batch_axis"): _AXES_ARE_OF_ONE_EXAMPLE,
    ("keep_rate", "keep_prob"): (
        "`p` is the probability of dropping a value: one less that of keeping it."
    ),
    ("dual", "dual_derivative", "nngp_fn", "d_nngp_fn", "d_nngp"): (
        "A nonlinearity by its dual is `nn.FromDual(dual)`, with `dual_derivative` and "
        "`fn` if there are any."
    ),
    ("causal", "is_causal", "local_window_size"): (
        "How far keys may be before and after queries is their `reach`: "
        "`reach=((None, 0),)` is causal."
    ),
    ("b_init", "bias_init"): (
        "Biases are normally distributed, of the standard deviation `bias_std`."
    ),
}


def _too_many_positional(owner: str, names: Sequence[str], args: tuple) -> str | None:
    """What to write instead of too many arguments by position."""
    if owner in ("Sequential", "Parallel"):
        return (
            f"takes one list of layers, but {len(args)} arguments came. Write "
            f"`nn.{owner}([a, b])`."
        )
    if names and names[0] == "out_features" and all(map(is_integer, args)):
        return (
            f"takes the number of outputs alone, but {args} came. Inputs are counted "
            f"by `init`: write `nn.{owner}({args[-1]})`, then `net.init(shape, "
            "key=key)`."
        )
    if not names and not isinstance(args[0], int | float | str):
        return (
            f"takes no arguments, but was given {described(args[0])}. "
            f"`nn.{owner}()` makes the layer, which is then called."
        )
    return None


LAYER_HABITS = Habits(
    {name: new for names, new in _NEW_NAMES.items() for name in names},
    {name: said for names, said in _REMARKS.items() for name in names},
    _too_many_positional,
)


def checked_new(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Check the arguments of a constructor by its annotations, before it runs."""
    if args or kwargs:  # copies are made without any
        check_constructor(cls, args, kwargs, LAYER_HABITS)
    return eqx.Module.__new__(cls)


# Layers by the names that they have in `neural_tangents.stax`, `equinox.nn`, PyTorch,
# Flax and Keras, and what they are here.
_LAYERS = {
    "Dense": "Linear",
    "LazyLinear": "Linear",
    "Embed": "Embedding",
    "TokenEmbedding": "Embedding",
    "MLP": "Sequential",
    "serial": "Sequential",
    "sequential": "Sequential",
    "parallel": "Parallel",
    "repeat": "Repeat",
    "Lambda": "Elementwise",
    "Activation": "Elementwise",
    "ElementwiseNumerical": "Elementwise",
    "ReLU": "Relu",
    "GELU": "Gelu",
    "ELU": "Elu",
    "SELU": "Selu",
    "SiLU": "Silu",
    "Swish": "Silu",
    "LeakyReLU": "LeakyRelu",
    "PReLU": "LeakyRelu",
    "ABReLU": "ABRelu",
    "Sigmoid_like": "SigmoidLike",
    "SoftPlus": "Softplus",
    "Step": "RectifiedMonomial",
    "Sine": "Sin",
    "Cosine": "Cos",
    "RBF": "Rbf",
    "ERF": "Erf",
    "RectifiedPolynomial": "RectifiedMonomial",
    "Polynomials": "Polynomial",
    "GlobalMeanPool": "GlobalAvgPool",
    "AdaptiveAvgPool": "GlobalAvgPool",
    "MultiheadAttention": "GlobalSelfAttention",
    "MultiHeadAttention": "GlobalSelfAttention",
    "SelfAttention": "GlobalSelfAttention",
    "Attention": "GlobalSelfAttention",
    "BatchNormalization": "BatchNorm",
    "LayerNormalization": "LayerNorm",
    "GroupNormalization": "GroupNorm",
    "RmsNorm": "RMSNorm",
    "LocalConv": "ConvLocal",
    "ConvGeneral": "Conv",
    "GraphConv": "Aggregate",
    "Slicing": "Slice",
    "Skip": "Residual",
    "Concatenate": "FanInConcat",
    "Add": "FanInSum",
    "Ravel": "Flatten",
    "RNN": "Recurrent",
    "SimpleRNN": "Recurrent",
    "RNNCell": "Recurrent",
} | {
    f"{name}{rank}": f"{new}"
    for rank in ("1d", "2d", "3d", "1D", "2D", "3D")
    for name, new in (
        ("Conv", "Conv"),
        ("ConvTranspose", "ConvTranspose"),
        ("ConvLocal", "ConvLocal"),
        ("AvgPool", "AvgPool"),
        ("MaxPool", "MaxPool"),
        ("SumPool", "SumPool"),
        ("AdaptiveAvgPool", "GlobalAvgPool"),
        ("Dropout", "Dropout"),
        ("BatchNorm", "BatchNorm"),
    )
}
_GATED = (
    "Gates pass states on without weights, for which there is no kernel here. Elman's "
    "recurrence is `nn.Recurrent`."
)
_ABSENT = {
    "Softmax": "It is no function of one number; attention has one inside.",
    "GRUCell": _GATED,
    "LSTMCell": _GATED,
    "GRU": _GATED,
    "LSTM": _GATED,
    "unmask_fn": "Missing positions are told by `nn.Masked(value, mask)`.",
    "Bias": "Layers with weights have biases by `bias_std`.",
}


OF_LAYERS = Said(_LAYERS, _ABSENT)
