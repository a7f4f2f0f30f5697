"""Results of sweeps, as JSON values and as tables."""
import importlib.metadata
import json
import math
import pathlib
import platform

from haiku_mup import sweep

PACKAGES = ("haiku-mup", "jax", "jaxlib", "dm-haiku", "optax", "numpy")
EXPLANATION = """\
optimum: of a parabola around the lowest point, ± its 95% interval over seeds; drift in octaves;
setback: how far a wider model is ever above a narrower one, in standard deviations of seeds, at
rates an octave or more below the optimum"""


def write_summary(args, data, seconds, settings, results):
    """Writes summary.json: the command, the data, the versions, and the results.

    Args:
      args: the parsed flags; the file goes to args.out.
      data: has `source` and `sizes`.
      seconds: that the run took.
      settings: constants of the demo.
      results: JSON values.
    """
    summary = {
        "command": args.command,
        "arguments": {name: str(value) if isinstance(value, pathlib.Path) else value
                      for name, value in vars(args).items() if name not in ("command", "out", "scheduler")},
        **settings,
        "data": {"source": data.source, **data.sizes},
        "versions": versions(), "seconds": round(seconds, 1), **results,
    }
    write_json(args.out / "summary.json", summary)


def write_json(path, values, ensure_ascii=True):
    """Writes a JSON file in UTF-8."""
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=ensure_ascii)
    path.write_text(text + "\n", encoding="utf-8")


def summarize(records, loss):
    """Returns {parametrization: its optima and lowest losses by width, its drift and setback}; see `sweep`."""
    return {name: {"optimum": {width: describe_optimum(curve) for width, curve in widths.items()},
                   "lowest": {width: finite_or_none(curve.lowest) for width, curve in widths.items()},
                   "drift": finite_or_none(sweep.drift(widths)),
                   "setback": finite_or_none(sweep.setback(widths))}
            for name, widths in sweep.curves(records, loss).items()}


def describe_optimum(curve):
    """Returns a curve's optimum and its lowest point, in log2 of the learning rate."""
    optimum = {key: value if key == "at_edge" else finite_or_none(value)
               for key, value in curve.optimum._asdict().items()}
    return optimum | {"lowest_point": finite_or_none(curve.best)}


def finite_or_none(x):
    """Returns the number as a float; None for nan and infinities, which JSON lacks."""
    return float(x) if math.isfinite(x) else None


def versions():
    """Returns the versions of Python and of those of PACKAGES that are installed."""
    installed = {it.metadata["Name"].lower(): it.version for it in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {p: installed[p] for p in PACKAGES if p in installed}


# --- tables ---

def optimum_table(summaries, widths, unit=""):
    """Formats the optima, a line for each loss and parametrization.

    Args:
      summaries: {loss: what `summarize` returns}.
      widths: the columns.
      unit: of the columns, if they aren't widths.
    """
    titles = [f"{width} {unit}".strip() for width in widths]
    lines = [_line(summaries, "optimum, log2 lr", titles) + f"{'drift':>9}{'setback':>9}"]
    for loss, by_parametrization in summaries.items():
        for name, result in by_parametrization.items():
            cells = [_optimum_cell(result["optimum"].get(width)) for width in widths]
            bound = "≥" * any(optimum["at_edge"] for optimum in result["optimum"].values())
            lines.append(_line(summaries, (loss, name), cells) + f"{_cell(result['drift'], bound):>9}"
                         f"{_cell(result['setback']):>9}")
    return "\n".join(lines)


def lowest_loss_table(summaries, widths):
    """Formats the lowest losses, a line for each loss and parametrization."""
    lines = [_line(summaries, "lowest", widths)]
    lines += [_line(summaries, (loss, name),
                    [f"{result['lowest'].get(width) or math.nan:.4g}" for width in widths])
              for loss, by_parametrization in summaries.items() for name, result in by_parametrization.items()]
    return "\n".join(lines)


def _line(summaries, title, cells):
    """Formats a title, or a loss and a parametrization, and a cell for each width."""
    loss_room = max(12, *(len(loss) + 1 for loss in summaries))
    name_room = max(5, *(len(name) + 1 for results in summaries.values() for name in results))
    if isinstance(title, str):
        head = f"{title:<{loss_room + name_room}}"
    else:
        head = f"{title[0]:<{loss_room}}{title[1]:<{name_room}}"
    return head + "".join(f"{cell:>13}" for cell in cells)


def _optimum_cell(optimum):
    """Formats -8.38 ±0.19; "edge -13.00" if the optimum is at an end of the rates, or beyond."""
    if optimum is None or optimum["log2_lr"] is None:
        return "-"
    at, low, high = optimum["log2_lr"], optimum["low"], optimum["high"]
    if optimum["at_edge"]:
        return f"edge {at:.2f}"
    return _cell(at) if low is None else f"{at:.2f} ±{max(at - low, high - at):.2f}"


def _cell(x, before=""):
    return "-" if x is None else f"{before}{x:.2f}"
