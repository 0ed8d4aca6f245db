"""Ask where decisions flip: distance and shape of the decision boundary, and detection of tampering."""

from __future__ import annotations

from assay.cli.request import single

run = single("boundary")
