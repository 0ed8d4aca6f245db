"""Ask what noise does: Gaussian noise in, mean, covariance and flipped decisions out."""

from __future__ import annotations

from assay.cli.request import single

run = single("moments")
