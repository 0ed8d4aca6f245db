"""How the documentation is built: `make docs`, or `python -m sphinx -b html -W --keep-going -n docs docs/_build/html`.

Nothing is fetched while it is built or read: formulas become MathML, fonts are the reader's own.
"""

import os
import re
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE / "extensions"))
# Figures and sums as in the tests: no window system, one thread.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import assay  # noqa: E402  (after the settings above)


def home_of(package: str, name: str) -> str:
    """The first of the listed packages that offers a class."""
    offered = getattr(import_module(package), name)
    packages = re.findall(
        r"^   (assay\.\w+)$", (HERE / "reference" / "api.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    defined = ".".join(offered.__module__.split(".")[:2])
    return defined if defined in packages and getattr(import_module(defined), name, None) is offered else package


def is_own(package: str, name: str) -> bool:
    """Whether a name is the package's: in its `__all__`, or defined there where it has none."""
    module = import_module(package)
    return hasattr(module, "__all__") or getattr(module, name).__module__ == package


project = "assay"
author = "The assay authors"
copyright = "the assay authors, Apache-2.0"
version = release = assay.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "docstrings",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "sg_execution_times.rst"]
templates_path = ["templates"]
nitpicky = True
# Types of other libraries, whose pages are elsewhere; words that stand where a type would; names that are not public.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!assay\.).*"),
    (r"py:class", r"assay\..*"),
]

# Pages
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_block"]
myst_dmath_allow_space = False
myst_dmath_allow_digits = False
myst_heading_anchors = 3
html_math_renderer = "mathml"

# Reference of the library: one page per package, of the names in its `__all__`
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
autodoc_member_order = "bysource"
autodoc_default_options = {"inherited-members": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# A class that two packages offer is described in its own
autosummary_context = {
    "home": lambda name, package: home_of(package, name),
    "own": lambda names, package: [name for name in names if is_own(package, name)],
}
suppress_warnings = ["config.cache"]  # these two are functions, which Sphinx cannot keep from one run to the next

# Gallery: scripts that are run, with their figures
sphinx_gallery_conf = {
    "examples_dirs": [str(ROOT / "examples" / "gallery")],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"plot_",
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "min_reported_time": 1e9,
    "write_computation_times": False,
}

# Pages in HTML
html_theme = "furo"
html_title = f"assay {release}"
html_static_path = ["static"]
html_css_files = ["assay.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
