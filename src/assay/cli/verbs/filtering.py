"""Ask which weights the network depends on: fragile, robust, antifragile."""

from __future__ import annotations

from assay.cli.request import single

run = single("filtering")
