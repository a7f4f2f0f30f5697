"""Writes what is measured into the documentation: its numbers, tables of them, and a figure."""
import json
import statistics

from benchmarks.atlas.figure import draw
from benchmarks.atlas.found import FOUND
from benchmarks.atlas.pieces import PIECES
from haiku_mup.serialization import atomic_files

FEWEST_SEEDS = 3        # for intervals: those of two seeds have one degree of freedom
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
    """Returns the sections in reStructuredText: one over all optimizers, and one for each piece."""
    pairs = optimizer_pairs(known)
    sections = [*([over_optimizers(pairs)] if pairs else []),
                *(section(name, piece) for name, piece in known.items())]
    return "\n".join(sections)


def optimizer_pairs(known):
    """Returns {loss: [(numbers in the standard parametrization, numbers in μP)]} of all optimizers."""
    pairs = {}
    for piece in (piece for name, piece in known.items() if name.startswith("optimizers_")):
        for optimizer in dict.fromkeys(setting.partition(", ")[0] for setting in piece["settings"]):
            standard, mup = (piece["settings"][f"{optimizer}, {each}"] for each in ("standard", "μP"))
            for loss in standard:
                pairs.setdefault(loss, []).append((standard[loss], mup[loss]))
    return pairs


def over_optimizers(pairs):
    """Returns the section that compares both parametrizations over all optimizers."""
    lines = [".. _atlas-all-optimizers:", "", "All optimizers", "-" * len("All optimizers"), "",
             "Medians over the optimizers of the pieces below: how far the best rate moves, in octaves, and "
             "what the largest width loses by the smallest one's rate, in nats. The last column says for how "
             "many of them the lowest loss at the largest width is the standard parametrization's, each at its "
             "own best rate.", ""]
    rows = [["loss", "drift, standard", "drift, μP", "lost, standard", "lost, μP", "standard is lower"]]
    for loss, found in pairs.items():
        standard, mup = zip(*found)
        lower = sum(last(a["lowest"]) < last(b["lowest"]) for a, b in found)
        rows.append([loss.removesuffix("_loss"),
                     *(f"{middle(it['drift'] for it in side):.2f}" for side in (standard, mup)),
                     *(f"{middle(it['lost'][0] for it in side):.3f}" for side in (standard, mup)),
                     f"{lower} of {len(found)}"])
    return "\n".join([*lines, *list_table(rows), ""])


def middle(numbers):
    """Returns the median of the numbers that are known."""
    return statistics.median(number for number in numbers if number is not None)


def last(by_size):
    """Returns the number at the largest size."""
    return list(by_size.values())[-1]


def section(name, piece):
    """Returns the section of one piece."""
    seeds, seconds = piece["seeds"], piece["seconds"]
    lines = [f".. _atlas-{name.replace('_', '-')}:", "", piece["title"], "-" * len(piece["title"]), "",
             f"**Expected.** {piece['expected']}", ""]
    if name in FOUND:
        verdict, text = FOUND[name]
        lines += [f"**Found: the expectation was {verdict}.** {text}", ""]
    header = ["setting", "loss", *(f"{piece['varies']} {size}" for size in piece["sizes"]), "exponent", "lost"]
    rows = [row(setting, loss, found, piece["sizes"], seeds >= FEWEST_SEEDS)
            for setting, by_loss in piece["settings"].items() for loss, found in by_loss.items()]
    if len(rows[0]) > len(header):
        header.append("behind")
    return "\n".join([*lines, *list_table([header, *rows]), "",
                      f"``python -m benchmarks.atlas {name}``: {seeds} seeds, {seconds} seconds.", ""])


def list_table(rows):
    """Returns the lines of a table in reStructuredText; its first row is the header."""
    return [".. list-table::", "   :header-rows: 1", "   :widths: auto", "",
            *(f"   {' ' if i else '*'} - {cell}" for cells in rows for i, cell in enumerate(cells))]


def row(setting, loss, found, sizes, with_intervals):
    """Returns the cells of one setting and loss."""
    best = [rate(*found["best"][str(size)], size in found["edges"], with_intervals) for size in sizes]
    # What is behind the best setting is told by intervals alone.
    columns = {"exponent": 2, "lost": 3} | ({"behind": 3} if with_intervals and "behind" in found else {})
    numbers = [interval(*found[name], digits, with_intervals) for name, digits in columns.items()]
    return [setting, loss.removesuffix("_loss"), *best, *numbers]


def rate(log2_lr, half, at_edge, with_interval):
    """Returns log2 of a best rate with half its interval; one at the end of the rates is marked."""
    if log2_lr is None:
        return "none"
    shown = with_interval and half is not None
    return f"{log2_lr:.1f}" + (" (end)" if at_edge else f" ±{half:.1f}" if shown else "")


def interval(value, low, high, digits, shown):
    """Returns a number with half its 95% interval; a dash if it is unknown."""
    if value is None:
        return "–"
    known = shown and low is not None and high is not None
    return f"{value:.{digits}f}" + (f" ±{(high - low) / 2:.{digits}f}" if known else "")
