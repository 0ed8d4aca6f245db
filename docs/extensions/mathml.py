"""Formulas as MathML, which browsers draw by themselves: no script, no font, no server.

Sphinx hands every formula to a renderer; this one lets docutils turn its LaTeX into MathML. A formula that docutils
does not understand is a warning with its place, and is shown as it was written.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml, unichar2tex
from sphinx.application import Sphinx
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)


def converted(latex: str, *, block: bool) -> str:
    """A formula as a `<math>` element.

    Args:
        latex: the formula.
        block: whether it stands on a line of its own.

    Returns:
        MathML.

    Raises:
        MathError: for what docutils cannot convert.
    """
    text = latex.strip().translate(unichar2tex.uni2tex_table)
    if block and "\\\\" in text and "\\begin" not in text:
        text = "\\begin{align}\n" + text + "\n\\end{align}"
    return latex2mathml.tex2mathml(text, as_block=block)


def _visit(translator: Any, node: nodes.math | nodes.math_block, *, block: bool) -> None:
    try:
        made = converted(node.astext(), block=block)
    except MathError as error:
        LOGGER.warning("formula cannot be shown: %s", error, location=node)
        made = translator.encode(node.astext())
    if block:
        made = f'<div class="math">{made}</div>'
    translator.body.append(made)
    raise nodes.SkipNode


def visit_inline(translator: Any, node: nodes.math) -> None:
    """A formula within a line."""
    _visit(translator, node, block=False)


def visit_block(translator: Any, node: nodes.math_block) -> None:
    """A formula on a line of its own."""
    _visit(translator, node, block=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
