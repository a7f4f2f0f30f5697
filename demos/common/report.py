"""What a sweep found, as JSON values and as a table."""
import importlib.metadata
import json
import math
import pathlib
import platform

from haiku_mup import sweep

PACKAGES = ("haiku-mup", "jax", "jaxlib", "dm-haiku", "optax", "numpy")


def write(args, data, seconds, settings, found):
    """Writes summary.json: what was asked for, of what data, with which versions, and what was found."""
    summary = {
        "command": args.command,
        "arguments": {name: str(value) if isinstance(value, pathlib.Path) else value
                      for name, value in vars(args).items() if name not in ("command", "out", "scheduler")},
        **settings,
        "data": {"source": data.source, **data.sizes},
        "versions": versions(), "seconds": round(seconds, 1), **found,
    }
    text = json.dumps(summary, indent=2, allow_nan=False)
    (args.out / "summary.json").write_text(text + "\n", encoding="utf-8")


def results(rows, loss):
    """For each parametrization, the optimum and the lowest loss per width, drift, and setback: see `sweep`."""
    return {name: {"optimum": {width: optimum(curve) for width, curve in widths.items()},
                   "lowest": {width: known(curve.lowest) for width, curve in widths.items()},
                   "drift": known(sweep.drift(widths)), "setback": known(sweep.setback(widths))}
            for name, widths in sweep.curves(rows, loss).items()}


def optimum(curve):
    """A curve's optimum and its lowest point, in log2 of the learning rate."""
    found = {key: value if key == "at_edge" else known(value)
             for key, value in curve.optimum._asdict().items()}
    return found | {"lowest_point": known(curve.best)}


def known(x):
    """The number; None for nan and infinities, which JSON lacks."""
    return float(x) if math.isfinite(x) else None


def table(best, widths, size=""):
    """The optima as text, a line for each loss and parametrization; `size` is what widths are, if no widths."""
    heads = [f"{width} {size}".strip() for width in widths]
    lines = [_line(best, "optimum, log2 lr", heads) + f"{'drift':>9}{'setback':>9}"]
    for loss, found in best.items():
        for name, result in found.items():
            cells = [_cell(result["optimum"].get(width)) for width in widths]
            edge = any(at["at_edge"] for at in result["optimum"].values())
            lines.append(_line(best, (loss, name), cells) + f"{_number(result['drift'], '≥' * edge):>9}"
                         f"{_number(result['setback']):>9}")
    return "\n".join(lines)


def lowest(best, widths):
    """The lowest losses as text, a line for each loss and parametrization."""
    lines = [_line(best, "lowest", widths)]
    lines += [_line(best, (loss, name), [f"{result['lowest'].get(width) or math.nan:.4g}" for width in widths])
              for loss, found in best.items() for name, result in found.items()]
    return "\n".join(lines)


def _line(best, title, cells):
    """A title, or a loss and a parametrization, and a cell for each width."""
    room = max(12, *(len(loss) + 1 for loss in best))
    more = max(5, *(len(name) + 1 for found in best.values() for name in found))
    head = f"{title:<{room + more}}" if isinstance(title, str) else f"{title[0]:<{room}}{title[1]:<{more}}"
    return head + "".join(f"{cell:>13}" for cell in cells)


def _cell(at):
    """-8.38 ±0.19; "edge -13.00" where the optimum is at an end of the rates, or beyond."""
    if at is None or at["log2_lr"] is None:
        return "-"
    if at["at_edge"]:
        return f"edge {at['log2_lr']:.2f}"
    if at["low"] is None:
        return _number(at["log2_lr"])
    return f"{at['log2_lr']:.2f} ±{max(at['log2_lr'] - at['low'], at['high'] - at['log2_lr']):.2f}"


def _number(x, before=""):
    return "-" if x is None else f"{before}{x:.2f}"


def versions():
    """Of Python and of the packages that matter, where they are installed."""
    found = {name.lower(): version for name, version in _distributions()}
    return {"python": platform.python_version()} | {p: found[p] for p in PACKAGES if p in found}


def _distributions():
    return ((it.metadata["Name"], it.version) for it in importlib.metadata.distributions())
