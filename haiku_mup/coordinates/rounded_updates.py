"""Finds parameters of low precision whose updates are rounded away as the width grows."""
import statistics
from collections.abc import Iterable, Mapping

from haiku_mup.coordinates.findings import Point
from haiku_mup.coordinates.quantities import ParameterKind

FULL = 0.9              # the share of moving entries from which on rounding takes little
FALL = 0.05             # by which the share must fall from the narrowest to the widest model
SHOWN = 4               # parameters that are named

Shares = dict[str, dict[int, float]]        # by parameter, then by width


def moved_shares(points: Iterable[Point]) -> Shares:
    """Returns the share of entries that the last step moved, of those with a gradient: means over seeds.

    It is recorded of parameters whose numbers have less precision than float32.

    >>> points = [Point("mup", width, 0, step, "moved linear/w", "l1", 32 / width, "")
    ...           for width in (64, 128) for step in (0, 1)]
    >>> moved_shares(points)
    {'linear/w': {64: 0.5, 128: 0.25}}
    """
    found: dict[str, dict[int, dict[int, list[float]]]] = {}
    for point in points:
        kind, _, name = point.quantity.partition(" ")
        if kind == ParameterKind.MOVED:
            by_step = found.setdefault(name, {}).setdefault(point.width, {})
            by_step.setdefault(point.step, []).append(point.value)
    return {name: {width: statistics.fmean(by_step[max(by_step)]) for width, by_step in sorted(widths.items())}
            for name, widths in found.items()}


def rounded_away(shares: Mapping[str, Mapping[int, float]]) -> Shares:
    """Returns the parameters of which a step moves ever fewer entries in wider models, the worst first.

    >>> rounded_away({"a/w": {64: 0.5, 256: 0.2}, "a/b": {64: 0.5, 256: 0.5}, "b/w": {64: 1.0, 256: 0.94}})
    {'a/w': {64: 0.5, 256: 0.2}}
    """
    falling = {name: dict(widths) for name, widths in shares.items()
               if widths[max(widths)] < min(FULL, widths[min(widths)] - FALL)}
    return dict(sorted(falling.items(), key=lambda item: item[1][max(item[1])]))


def describe(shares: Mapping[str, Mapping[int, float]]) -> str:
    """Returns the first few of them with their shares by width.

    >>> describe({"a/w": {64: 0.5, 256: 0.2}})
    "'a/w' (0.50 at width 64, 0.20 at 256)"
    """
    texts = []
    for name, widths in list(shares.items())[:SHOWN]:
        first, *rest = (f"{share:.2f} at {'width ' * (i == 0)}{width}" for i, (width, share) in
                        enumerate(widths.items()))
        texts.append(f"{name!r} ({', '.join([first, *rest])})")
    return ", ".join(texts) + (f" and {len(shares) - SHOWN} more" if len(shares) > SHOWN else "")


def warning_text(shares: Mapping[str, Mapping[int, float]]) -> str:
    """Returns the warning about parameters whose updates are rounded away.

    >>> warning_text({"a/w": {64: 0.5, 256: 0.2}}).partition(":")[0]
    'coord_check'
    """
    return ("coord_check: a step moves ever fewer entries of parameters in wider models: " + describe(shares)
            + ". Hidden updates shrink as 1 / width beside their weights, and these numbers' precision rounds "
            "them away, which no factor can mend; keep float32 masters: let the parameters be float32 "
            "(jmp.get_policy('params=float32,compute=bfloat16,output=bfloat16')), and cast them in the forward "
            "pass")
