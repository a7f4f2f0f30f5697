"""Draws concepts.svg, a base beside a target: `python docs/figures/concepts.py`."""
import pathlib

FILE = pathlib.Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT, MIDDLE = 860, 390, 175       # of the drawing; where the networks' middle line is
BAR, GAP = 16, 92                           # of a layer; between two layers
INK, PALE = "#24292f", "#57606a"
ROLES = {"input": "#9ecae9", "hidden": "#fdbf6f", "output": "#a6d9a0"}
FACTORS = {"input": ("SGD lr × 4",), "hidden": ("std × ½", "Adam lr × ¼"),
           "output": ("multiplier ¼", "SGD lr × 4")}
# The size of each layer, and the height of its bar.
BASE = [("784", 110), ("64", 52), ("64", 52), ("10", 22)]
TARGET = [("784", 110), ("256", 208), ("256", 208), ("10", 22)]


def text(x, y, words, *, size=13, colour=INK, weight="normal"):
    """Returns centred text."""
    return (f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" font-weight="{weight}" '
            f'text-anchor="middle">{words}</text>')


def bar(x, name, height):
    """Returns a layer: a bar as high as it is wide, with its size below."""
    return [f'<rect x="{x}" y="{MIDDLE - height / 2}" width="{BAR}" height="{height}" rx="4" fill="{INK}"/>',
            text(x + BAR / 2, MIDDLE + height / 2 + 16, name, size=12, colour=PALE)]


def weight(x, left, right, role):
    """Returns a weight: a band from one layer to the next, with its role."""
    corners = [(x, MIDDLE - left / 2), (x + GAP, MIDDLE - right / 2), (x + GAP, MIDDLE + right / 2),
               (x, MIDDLE + left / 2)]
    points = " ".join(f"{x},{y}" for x, y in corners)
    return [f'<polygon points="{points}" fill="{ROLES[role]}"/>',
            text(x + GAP / 2, MIDDLE + 5, role, size=13)]


def network(x, title, layers, factors):
    """Returns a network from left to right, with its title above and the factors of its weights below."""
    parts = [text(x + 1.5 * (GAP + BAR) + BAR / 2, 30, title, size=16, weight="bold")]
    for place, role in enumerate(ROLES):
        start = x + place * (GAP + BAR) + BAR
        parts += weight(start, layers[place][1], layers[place + 1][1], role)
        for line, words in enumerate(factors.get(role, ())):
            parts.append(text(start + GAP / 2, MIDDLE + 150 + 19 * line, words))
    for place, (name, height) in enumerate(layers):
        parts += bar(x + place * (GAP + BAR), name, height)
    return parts


def drawing():
    """Returns the drawing."""
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
             f'height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="white"/>']
    parts += network(45, "base, width 64: tune it", BASE, {})
    parts += network(475, "target, width 256: train it", TARGET, FACTORS)
    parts += [text(45 + 1.5 * (GAP + BAR) + BAR / 2, MIDDLE + 150, "all factors are 1"),
              text(WIDTH / 2, HEIGHT - 14, "A role says which sides of a weight grow: input, the right "
                   "one; hidden, both; output, the left one.", colour=PALE), "</svg>"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")
