"""Makes tutorial.ipynb anew: the cells of tutorial.py, executed in a fresh kernel."""
import argparse
import base64
import io
import pathlib

import jupytext
import nbclient
import nbformat
from PIL import Image

HERE = pathlib.Path(__file__).parent
PROG = "python -m demos.notebook"


def execute(script):
    """Executes the script's cells; returns the notebook, without anything that differs from run to run."""
    notebook = jupytext.read(script)
    nbclient.NotebookClient(
        notebook, timeout=None, kernel_name="python3", record_timing=False, coalesce_streams=True,
        resources={"metadata": {"path": str(script.parent)}}).execute()
    for i, cell in enumerate(notebook.cells):
        cell["id"], cell["metadata"] = f"cell-{i}", {}  # jupytext draws ids at random
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = quantize(output["data"]["image/png"])
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata["jupytext"] = {"formats": "ipynb,py:percent"}
    return notebook


def quantize(png):
    """Reduces an image to 256 colours, and so to a quarter of its size."""
    image, file = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    image.convert("RGB").quantize(256).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(argv=None):
    """Writes the notebook."""
    parser = argparse.ArgumentParser(prog=PROG, description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "tutorial.ipynb",
                        help="where it is written; default: beside tutorial.py")
    args = parser.parse_args(argv)
    nbformat.write(execute(HERE / "tutorial.py"), args.out)


if __name__ == "__main__":
    main()
