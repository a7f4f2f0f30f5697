"""Measures a piece: writes down what is expected, trains, and reduces the sweep to numbers."""
import json
import math
import time

import haiku_mup
from haiku_mup.serialization import atomic_files


def measure(piece, folder, **sweep_arguments):
    """Measures a piece, and writes measured.json; one that was interrupted, or has more seeds now, goes on.

    Args:
      piece: what to measure.
      folder: of its results.
      sweep_arguments: further arguments of `haiku_mup.lr_sweep`.
    """
    start = time.perf_counter()
    write_expectation(piece, folder)
    losses = {}
    for number, (lrs, makers) in enumerate(piece.groups().items()):
        losses |= haiku_mup.lr_sweep(makers, piece.sizes, lrs, piece.seeds, out=folder / f"sweep-{number}",
                                     grow=True, **sweep_arguments).losses
    described = describe(haiku_mup.Sweep(losses), piece.losses)
    settings = {setting: described[setting] for setting in piece.makers()}
    path, seconds = folder / "measured.json", time.perf_counter() - start
    # One that is measured already is only read again, which takes no time; one with more seeds takes more.
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"seconds": 0, "seeds": 0}
    if earlier["seeds"] == piece.seeds:
        seconds = 0
    atomic_files.write(path, json.dumps({
        "title": piece.title, "varies": piece.varies, "sizes": list(piece.sizes), "seeds": piece.seeds,
        "expected": piece.expected, "seconds": earlier["seconds"] + round(seconds), "settings": settings},
        indent=1, ensure_ascii=False))


def write_expectation(piece, folder):
    """Writes what is expected, before anything is measured; what is there already must be the same."""
    path = folder / "expected.txt"
    if path.exists() and path.read_text(encoding="utf-8") != piece.expected:
        raise SystemExit(f"{path}: another expectation was written down before this piece was measured; keep "
                         "it, or measure in another folder")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(piece.expected, encoding="utf-8")


def describe(sweep, losses):
    """Returns {setting: {loss: numbers}}, as JSON values."""
    found = {}
    for loss in losses:
        drift, transfer = sweep.drift(loss), sweep.transfer(loss)
        comparison = haiku_mup.Comparison(haiku_mup.Sweep({
            trial: {loss: losses_of[loss]} for trial, losses_of in sweep.losses.items()}))
        for setting, curves in sweep.curves(loss).items():
            best = {size: curve.optimum for size, curve in curves.items()}
            found.setdefault(setting, {})[loss] = {
                "best": {str(size): [number(it.log2_lr), number(it.half)] for size, it in best.items()},
                "edges": [size for size, it in best.items() if it.at_edge],
                "lowest": {str(size): number(curve.lowest) for size, curve in curves.items()},
                "drift": number(drift[setting]),
                "exponent": [number(x) for x in transfer[setting].exponent],
                "lost": [number(x) for x in transfer[setting].lost],
                "behind": [number(x) for x in comparison.behind(setting)]}
    return found


def number(x):
    """Returns a number for JSON, with four digits; None for nan and infinities, which JSON has not."""
    return float(f"{x:.4g}") if math.isfinite(x) else None
