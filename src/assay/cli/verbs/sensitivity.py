"""Ask how small changes of inputs, weights and number formats reach the outputs."""

from __future__ import annotations

from assay.cli.request import single

run = single("sensitivity")
