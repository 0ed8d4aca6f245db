"""What `audit` and the verbs of single analyses share: settings, data, directory, run, exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import BaseModel, Field, create_model

from assay.analyses import BUILT_IN
from assay.cli import job
from assay.cli.invocation import Invocation
from assay.cli.options import Effort, Ending, Loading, Model, Printing, Settling
from assay.cli.settings import flags_of, merged, split_commas
from assay.config import AuditConfig
from assay.errors import UsageError
from assay.results import Audit, Status


def settings_of(given: BaseModel, settling: Settling, effort: Effort) -> AuditConfig:
    """The configuration that was asked for.

    Args:
        given: flags of single settings.
        settling: file, seed, strictness.
        effort: preset.

    Returns:
        The configuration, checked.

    Raises:
        UsageError: naming the flag or key that is wrong.
    """
    return merged(
        given, file=settling.config, seed=settling.seed, strict=settling.strict, preset=effort.preset()
    )  # fmt: skip


def require_data(model: str, loading: Loading) -> None:
    """Refuse a model without data, before anything is loaded.

    Raises:
        UsageError: when no data were given and the model brings none.
    """
    if loading.data is None and not model.startswith("demo"):
        raise UsageError(
            "An audit needs data to question the model with.",
            where="--data",
            advice="Add --data: a folder of pictures, FILE.npz, FILE.csv, sklearn:NAME, ...",
        )


def names_of(only: Sequence[str]) -> list[str] | None:
    """Names of analyses from a flag such as `--only moments,sensitivity`; None for all."""
    return split_commas(tuple(only)) if only else None


def perform(
    model: str,
    config: AuditConfig,
    *,
    verb: str,
    only: Sequence[str] | None,
    loading: Loading,
    ending: Ending,
    printing: Printing,
) -> int:
    """Run analyses and keep them.

    Returns:
        The exit code.

    Raises:
        AssayError: when something cannot be used.
    """
    require_data(model, loading)
    directory = ending.output if ending.output is not None else job.fresh_directory(f"assay-{verb}")
    asked = Invocation.of(model, loading, only, ending.fail_on)
    return exit_code(job.perform(asked, directory, config, printing=printing), ending.fail_on)


def exit_code(result: Audit, fail_on: str) -> int:
    """1 when a finding is at least as bad as `fail_on`, else 0."""
    return int(fail_on != "never" and result.status.severity >= Status(fail_on).severity)


def single(name: str) -> Callable[..., int]:
    """The verb of one analysis: an audit of that analysis, with its flags and no others.

    Args:
        name: of the analysis.

    Returns:
        A function for the command line; its parameters are the options.
    """
    flags = _flags_of_one(name)

    def run(
        model: str,
        /,
        *,
        effort: Effort = Effort(),
        settling: Settling = Settling(),
        loading: Loading = Loading(),
        ending: Ending = Ending(),
        printing: Printing = Printing(),
        settings: Any = flags(),
    ) -> int:
        config = settings_of(settings, settling, effort)
        return perform(
            model, config, verb=name, only=(name,), loading=loading, ending=ending, printing=printing
        )  # fmt: skip

    run.__annotations__ |= {
        "model": Model,
        "effort": Effort,
        "settling": Settling,
        "loading": Loading,
        "ending": Ending,
        "printing": Printing,
        "settings": Annotated[flags, Parameter(name="*")],
        "return": int,
    }
    run.__doc__ = f"Run the analysis {name} alone."
    return run


def _flags_of_one(name: str) -> type[BaseModel]:
    """The flags of one section; they are named as in an audit."""
    kind: Any = BUILT_IN[name].config
    heading = Field(default=kind(), description=AuditConfig.model_fields[name].description)
    sections: dict[str, Any] = {name: (kind, heading)}
    return flags_of(create_model(f"{name.capitalize()}Only", **sections))
