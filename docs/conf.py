"""Settings of Sphinx, for `python -m sphinx -W -E docs docs/_build` in a clone of the repository.

-W makes warnings errors; -E reads every page anew, else a second build doesn't repeat the warnings.
"""
import inspect
import pathlib
import sys

from docutils import nodes
from sphinx.domains.python import PyXRefRole
from sphinx.util.typing import stringify_annotation

import haiku_mup
from haiku_mup import models
from haiku_mup.parameters.initializers import Initializer

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import notebook_page  # noqa: E402  beside this file

project = "haiku_mup"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]     # myst_parser: for the tutorial
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "haiku_mup"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_copyright = html_show_sourcelink = html_show_sphinx = False
pygments_style, pygments_dark_style = "tango", "monokai"

add_module_names = False
autodoc_class_signature = "separated"       # a layer's __init__ has a signature and a docstring of its own
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
napoleon_use_ivar = True

# Each name of haiku_mup that is mentioned must have a place in the pages. Those of other packages have none.
nitpicky = True
nitpick_ignore = [("py:class", "haiku_mup.parameters.tree_layout.TreeLayout"),     # what adapters give plan
                  ("py:class", "haiku_mup.optimizers.learning_rates.LearningRates"),    # fields of a Plan
                  ("py:class", "haiku_mup.parameters.declarations.Declarations"),
                  ("py:class", "haiku_mup.frameworks.adapters.Multiplies"),     # Plan is one
                  ("py:class", "haiku_mup.optimizers.adamw.OptimizerWrapper"),     # Mup is one
                  ("py:class", "haiku_mup.tracing.wrapped_model.Model"),      # type variables: what was given
                  ("py:class", "haiku_mup.coordinates.recorder.T"),
                  ("py:class", "haiku_mup.coordinates.optimizer_diagnosis.OptimizerDiagnosis"),
                  ("py:class", "haiku_mup.layers.residual.T"),
                  ("py:class", "haiku_mup.models.heads.Configuration"),
                  ("py:class", "haiku_mup.models.heads.Logits")]
nitpick_ignore_regex = [
    ("py:.*", r"(jax|jaxlib|haiku|optax|numpy|matplotlib|collections|contextlib|os|pathlib|typing)\..*"),
    ("py:.*", r"concurrent\..*"),
]

PUBLIC = {name: getattr(package, name) for package in (haiku_mup, models) for name in package.__all__}
METHODS = {name for public in PUBLIC.values() for cls in getattr(public, "__mro__", ())
           if cls.__module__.startswith("haiku_mup.") for name, value in vars(cls).items()
           if (inspect.isfunction(value) or isinstance(value, classmethod)) and not name.startswith("_")}
default_role = "name"


class Name(PyXRefRole):
    """`text` in single backticks: code, and a link where it is a public name of the library."""

    def run(self):
        if self.text.removeprefix("haiku_mup.").partition(".")[0] not in METHODS.union(PUBLIC):
            return [nodes.literal(self.rawtext, self.text)], []
        self.name, self.target = "py:obj", f".{self.text}"      # the dot: in whatever class or module it is
        return super().run()


def name_aliases(app, what, name, obj, options, signature, returns):
    """Says `Initializer` in a signature, where Python has put what it stands for."""
    alias = stringify_annotation(Initializer, "smart")
    return signature and signature.replace(alias, "~haiku_mup.initializers.Initializer"), returns


def put_tutorial(app, page, source):
    """Puts the tutorial's notebook in the place of its page."""
    if page == "getting_started/tutorial":
        source[0] = notebook_page.markdown(HERE.parent / "demos" / "tutorial.ipynb")


def setup(app):
    app.add_role("name", Name())
    app.connect("source-read", put_tutorial)
    app.connect("autodoc-process-signature", name_aliases)
