"""Run before the first block of each page: how figures look; warnings are errors."""

import warnings

import matplotlib
from matplotlib_inline.config import InlineBackend


get_ipython().run_line_magic("colors", "NoColor")
get_ipython().run_line_magic("xmode", "Plain")
InlineBackend.instance(parent=get_ipython()).figure_formats = {"svg"}
matplotlib.rcParams.update(
    {
        "axes.edgecolor": "#888888",
        "axes.facecolor": "none",
        "axes.grid": True,
        # From Okabe & Ito's palette: told apart by colour-blind readers, and in grey.
        "axes.prop_cycle": matplotlib.cycler(
            color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"]
        ),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.facecolor": "none",
        "figure.figsize": (7, 3.6),
        "font.size": 10,
        "grid.color": "#88888844",
        "legend.frameon": False,
        "svg.hashsalt": "page",
    }
)
warnings.filterwarnings("error", module="__main__|eqtangents")
