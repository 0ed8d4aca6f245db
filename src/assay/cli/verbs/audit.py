"""Audit a model: run the analyses, keep the results, write the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from assay.cli import request
from assay.cli.options import RUN, Effort, Ending, Loading, Model, Printing, Settling
from assay.cli.settings import flags_of
from assay.config import AuditConfig, configuration

if TYPE_CHECKING:
    Settings = AuditConfig
else:
    Settings = flags_of(configuration())

ONLY = Parameter(group=RUN, consume_multiple=1, help="Analyses to run: moments,sensitivity; all.")


def run(
    model: Model,
    /,
    *,
    only: Annotated[tuple[str, ...], ONLY] = (),
    effort: Effort = Effort(),
    settling: Settling = Settling(),
    loading: Loading = Loading(),
    ending: Ending = Ending(),
    printing: Printing = Printing(),
    settings: Annotated[Settings, Parameter(name="*")] = Settings(),
) -> int:
    """Audit a model."""
    return request.perform(
        model,
        request.settings_of(settings, settling, effort),
        verb="audit",
        only=request.names_of(only),
        loading=loading,
        ending=ending,
        printing=printing,
    )
