"""How the figures of all examples look."""

import contextlib

import matplotlib.pyplot as plt


# From Okabe & Ito's palette: told apart by colour-blind readers, and in grey.
COLOURS = {"blue": "#0072B2", "orange": "#D55E00", "grey": "#555555"}
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.titleweight": "bold",
    "font.size": 10,
    "grid.color": "#ececec",
    "legend.frameon": False,
    "lines.linewidth": 2,
    "xtick.color": COLOURS["grey"],
    "ytick.color": COLOURS["grey"],
}


@contextlib.contextmanager
def panels(path, count, figsize=(11, 4.6), **options):
    """Axes side by side in this style, saved as a figure in the end."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(
            1, count, figsize=figsize, layout="constrained", **options
        )
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.15, wspace=0.04)
        yield axes
        figure.savefig(path, dpi=160)
        plt.close(figure)


def log_axis(axes, *, x=(), y=()):
    """Logarithmic axes with these numbers along them, as they are written in prose."""
    if len(x):
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{tick:,}" for tick in x])
    if len(y):
        axes.set_yscale("log")
        axes.set_yticks(y, [f"{tick:g}" for tick in y])
    axes.minorticks_off()
