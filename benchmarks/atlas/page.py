"""Writes what is measured into the documentation: its numbers, tables of them, and a figure."""
import json

from benchmarks.atlas.figure import draw
from benchmarks.atlas.found import FOUND
from benchmarks.atlas.pieces import PIECES
from haiku_mup.serialization import atomic_files

NUMBERS, TABLES, FIGURE = "evidence/atlas.json", "evidence/atlas_tables.txt", "figures/atlas.png"


def write(out, docs):
    """Writes the documentation's three files; what was measured elsewhere, and is there, stays.

    Args:
      out: folder with a folder for each piece.
      docs: folder of the documentation.
    """
    path = docs / NUMBERS
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in PIECES:
        measured = out / name / "measured.json"
        if measured.exists():
            known[name] = json.loads(measured.read_text(encoding="utf-8"))
    known = {name: known[name] for name in PIECES if name in known}
    atomic_files.write(path, json.dumps(known, indent=None, ensure_ascii=False).replace('}, "', '},\n"') + "\n")
    atomic_files.write(docs / TABLES, tables(known))
    draw(known, docs / FIGURE)


def tables(known):
    """Returns a section for each piece in reStructuredText: what was expected, what was found, and a table."""
    return "\n".join(section(name, piece) for name, piece in known.items())


def section(name, piece):
    """Returns the section of one piece."""
    seeds, seconds = piece["seeds"], piece["seconds"]
    lines = [f".. _atlas-{name.replace('_', '-')}:", "", piece["title"], "-" * len(piece["title"]), "",
             f"**Expected.** {piece['expected']}", ""]
    if name in FOUND:
        verdict, text = FOUND[name]
        lines += [f"**Found: the expectation was {verdict}.** {text}", ""]
    lines += [".. list-table::", "   :header-rows: 1", "   :widths: auto", ""]
    header = ["setting", "loss", *(f"{piece['varies']} {size}" for size in piece["sizes"]), "exponent", "lost"]
    rows = [row(setting, loss, found, piece["sizes"])
            for setting, by_loss in piece["settings"].items() for loss, found in by_loss.items()]
    for cells in [header, *rows]:
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(cells)]
    return "\n".join([*lines, "", f"``python -m benchmarks.atlas {name}``: {seeds} seeds, {seconds} seconds.",
                      ""])


def row(setting, loss, found, sizes):
    """Returns the cells of one setting and loss."""
    best = [rate(found["best"][str(size)], size in found["edges"]) for size in sizes]
    return [setting, loss.removesuffix("_loss"), *best, interval(*found["exponent"]),
            interval(*found["lost"], 3)]


def rate(best, at_edge):
    """Returns log2 of a best rate with half its interval; one at the end of the rates is marked."""
    value, half = best
    if value is None:
        return "none"
    return f"{value:.1f}" + (" (end)" if at_edge else "" if half is None else f" ±{half:.1f}")


def interval(value, low, high, digits=2):
    """Returns a number with half its 95% interval; a dash if it is unknown."""
    if value is None:
        return "–"
    half = "" if low is None or high is None else f" ±{(high - low) / 2:.{digits}f}"
    return f"{value:.{digits}f}{half}"
