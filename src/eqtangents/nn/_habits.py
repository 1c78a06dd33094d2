"""What users of other libraries write, and what to write here."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx

from eqtangents._arguments import Habits, check_constructor, described
from eqtangents._types import is_integer


_OUTPUTS = ("out_features", "out_channels")
_RENAMED = {
    ("w_std", "sigma_w", "weight_scale"): ("weight_std",),
    ("b_std", "sigma_b", "bias_scale"): ("bias_std",),
    ("out_dim", "out_size", "output_size", "units", "features", "num_features"): (
        _OUTPUTS
    ),
    ("out_chan", "filters", "n_chan_out", "width", "out_features"): _OUTPUTS,
    ("out_channels", "channels"): _OUTPUTS,
    ("filter_shape", "window_shape", "kernel_shape", "filter_size"): ("kernel_size",),
    ("kernel", "window", "pool_size"): ("kernel_size",),
    ("strides",): ("stride",),
    ("pad", "pads"): ("padding",),
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
    ("f", "func", "function", "activation", "nngp_fn"): ("fn",),
    ("order", "power", "n", "deg"): ("degree",),
    ("coef", "coefs", "coeffs"): ("coefficients",),
    ("idx",): ("index",),
    ("size", "target_shape"): ("shape",),
    ("d_nngp_fn", "d_nngp"): ("dual_derivative",),
    ("pattern", "graph", "edges"): ("adjacency",),
    ("x", "inputs", "values", "data"): ("value",),
    ("mask_constant", "masks"): ("mask",),
}
_INPUTS = "Inputs are counted by `init`, from the shape of an example: leave it out."
_BIAS = "For a bias give `bias_std=1.0`, say; without `bias_std` there is none."
_AXES = (
    "Axes are those of one example, channels first, `(channels, *spatial)`: leave it "
    "out."
)
_SAID = {
    ("key", "rng", "seed"): (
        "Random keys go to `net.init(shape, key=key)`: layers are made without "
        "parameters."
    ),
    ("in_features", "in_channels", "in_size", "in_dim", "input_size"): _INPUTS,
    ("num_spatial_dims", "query_size", "input_shape"): _INPUTS,
    ("bias", "use_bias"): _BIAS,
    ("padding_mode",): (
        'Zeros are padded, or with `padding="CIRCULAR"` the input over again.'
    ),
    ("dtype",): "Kernels have the dtype of the inputs: leave it out.",
    ("do_backprop", "do_stabilize"): "There is nothing to choose: leave it out.",
    ("dimension_numbers", "channel_axis", "batch_axis"): _AXES,
    ("keep_rate", "keep_prob"): (
        "`p` is the probability of dropping a value: one less that of keeping it."
    ),
    ("window_init", "w_init", "b_init"): (
        "Parameters are normally distributed, of standard deviations `weight_std` and "
        "`bias_std`."
    ),
}


def _positional(owner: str, names: Sequence[str], args: tuple) -> str | None:
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


HABITS = Habits(
    {name: new for names, new in _RENAMED.items() for name in names},
    {name: said for names, said in _SAID.items() for name in names},
    _positional,
)


def checked_new(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Check the arguments of a constructor by its annotations, before it runs."""
    if args or kwargs:  # copies are made without any
        check_constructor(cls, args, kwargs, HABITS)
    return eqx.Module.__new__(cls)
