"""Ask for kinks of the outputs along paths: from which layers, and what would help."""

from __future__ import annotations

from assay.cli.request import single

run = single("smoothness")
