"""Draws how far each best rate moves: a line for each setting, a dot for each parametrization."""
import matplotlib.figure
from matplotlib.lines import Line2D

SERIES = {"standard": "tab:orange", "μP": "tab:blue"}
OTHER = "tab:green"                 # of settings whose names have neither
TITLES = {"train_loss": "by training loss", "valid_loss": "by validation loss"}


def draw(known, path):
    """Draws the pieces that vary the width, on digits and on text.

    Args:
      known: {piece: numbers} as in measured.json.
      path: of the PNG file.
    """
    pieces = [piece for piece in known.values() if piece["varies"] == "width"]
    lines = [(piece, line) for piece in pieces for line in dict.fromkeys(map(line_of, piece["settings"]))]
    figure = matplotlib.figure.Figure(figsize=(11, 1.5 + 0.27 * len(lines)), layout="constrained")
    for axes, loss in zip(figure.subplots(1, 2, sharex=True, sharey=True), TITLES, strict=True):
        draw_panel(axes, lines, loss)
    draw_legend(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def line_of(setting):
    """Returns the line that a setting is on: its name without the parametrization."""
    return ", ".join(part for part in setting.split(", ") if part not in SERIES) or setting


def draw_panel(axes, lines, loss):
    """Draws one loss: how many octaves the best rate moves from the smallest to the largest size."""
    for y, (piece, line) in enumerate(lines):
        for setting, found in piece["settings"].items():
            if line_of(setting) == line and loss in found:
                draw_dot(axes, y, setting, found[loss], piece["sizes"])
    axes.axvspan(-0.5, 0.5, color="0.92", zorder=0)
    axes.set_yticks(range(len(lines)), [line for _, line in lines], fontsize=8)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel("the best rate moves by … octaves")
    axes.set_title(TITLES[loss])
    axes.grid(axis="x", color="0.85")


def draw_dot(axes, y, setting, found, sizes):
    """Draws one setting; hollow if a best rate was at the end of those tried."""
    (first, _), (last, _) = (found["best"][str(size)] for size in (sizes[0], sizes[-1]))
    if first is None or last is None:
        return
    colour = next((colour for name, colour in SERIES.items() if name in setting.split(", ")), OTHER)
    axes.plot(last - first, y, "o", color=colour, markerfacecolor="white" if found["edges"] else colour)


def draw_legend(figure):
    """Draws the legend below both panels."""
    dots = [Line2D([], [], marker="o", linestyle="", color=colour, label=name)
            for name, colour in (*SERIES.items(), ("as named", OTHER))]
    dots.append(Line2D([], [], marker="o", linestyle="", color="0.4", markerfacecolor="white",
                       label="at least so far: a best rate was at the end of those tried"))
    figure.legend(handles=dots, loc="outside lower center", ncols=len(dots), fontsize=9, frameon=False)
