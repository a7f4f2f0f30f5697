"""Turns a notebook into Markdown, with its outputs, for the page of the tutorial."""
import json


def markdown(path):
    """Returns the cells of a notebook as Markdown: text, programs, and what they print and draw.

    Args:
      path: the file, a pathlib.Path.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _parts(cell)) + "\n"


def _parts(cell):
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [_fenced("python", source), *map(_output, cell["outputs"])]


def _output(output):
    """Returns what a cell printed as a block of text, and what it drew as an image."""
    data = output.get("data", {})
    if "image/png" in data:
        image = _text(data["image/png"])
        return f'<img alt="The figure that this cell draws" src="data:image/png;base64,{image}">'
    return _fenced("text", _text(output.get("text") or data["text/plain"]))


def _text(lines):
    return "".join(lines).strip()


def _fenced(language, text):
    return f"```{language}\n{text.rstrip()}\n```"
