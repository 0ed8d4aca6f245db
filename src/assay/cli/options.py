"""Options that several verbs share: how a model and its data are loaded, what is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.preprocess import Preprocessing
    from assay.subject import Subject

RUN = Group("Run", sort_key=0)
LOADING = Group("Model and data", sort_key=1)
PREPROCESSING = Group("Preprocessing", sort_key=2)
OUTPUT = Group("Output", sort_key=3)

Model = Annotated[
    str,
    Parameter(
        help="demo, demo:regression, torchvision:NAME, timm:NAME, FILE.safetensors or FILE.pt (with --arch), "
        "package.module:factory, FILE.py:factory or FILE.pt2 (these three with --trust).",
    ),
]


def split_numbers(_: type, tokens: list) -> tuple[float, ...]:
    """Numbers from tokens such as `0.1,0.2` or `0.1 0.2`.

    Returns:
        The numbers.

    Raises:
        ValueError: for what is no number.
    """
    return tuple(float(part) for token in tokens for part in token.value.split(",") if part.strip())


Numbers = Annotated[tuple[float, ...] | None, Parameter(consume_multiple=1, converter=split_numbers, n_tokens=-1)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Loading:
    """How the model and its data are loaded."""

    data: Annotated[
        str | None,
        Parameter(
            group=LOADING,
            help="demo, sklearn:NAME, a folder of pictures, FILE.npz, .npy, .parquet or .csv, or a factory "
            "(--trust). A demo model brings its own.",
        ),
    ] = None
    limit: Annotated[int | None, Parameter(group=LOADING, help="Take so many samples, spread over the classes.")] = None
    weights: Annotated[Path | None, Parameter(group=LOADING, help="Weights for a named network or factory.")] = None
    arch: Annotated[
        str | None,
        Parameter(group=LOADING, help="The network that a file of weights belongs to: torchvision:NAME, ..."),
    ] = None
    trust: Annotated[
        bool, Parameter(group=LOADING, help="Allow factories, .pt2 programs and full pickles to execute code.")
    ] = False
    classes: Annotated[
        Path | None, Parameter(group=LOADING, help="File of class names in the order of the outputs, one per line.")
    ] = None
    task: Annotated[
        Literal["classification", "regression"] | None,
        Parameter(group=LOADING, help="What the outputs are; recognised from the targets."),
    ] = None
    inputs_key: Annotated[str | None, Parameter(group=LOADING, help="Name of the inputs in an .npz.")] = None
    targets_key: Annotated[str | None, Parameter(group=LOADING, help="Name of the targets in an .npz.")] = None
    target_column: Annotated[str | None, Parameter(group=LOADING, help="Name of the target in a table.")] = None
    preprocess: Annotated[
        str | None,
        Parameter(group=PREPROCESSING, help="Preset: none, unit, imagenet, imagenet-bgr-255 or symmetric."),
    ] = None
    resize: Annotated[int | None, Parameter(group=PREPROCESSING, help="Short side in pixels after resizing.")] = None
    crop: Annotated[int | None, Parameter(group=PREPROCESSING, help="Side of the centre crop in pixels.")] = None
    bounds: Annotated[
        tuple[float, float] | None, Parameter(group=PREPROCESSING, help="Lowest and highest legal data value.")
    ] = None
    scale: Annotated[
        tuple[float, float] | None, Parameter(group=PREPROCESSING, help="Range that bounds are mapped to before mean.")
    ] = None
    mean: Annotated[
        Numbers, Parameter(group=PREPROCESSING, help="Per channel, subtracted after scaling: 0.5,0.4,0.3.")
    ] = None
    std: Annotated[Numbers, Parameter(group=PREPROCESSING, help="Per channel, divided by after the mean.")] = None
    channel_order: Annotated[
        Literal["RGB", "BGR"] | None, Parameter(group=PREPROCESSING, help="Channel order that the model expects.")
    ] = None

    def load(self, model: str) -> Subject:
        """The subject of these options.

        Args:
            model: specification of the model.

        Returns:
            Model and data, checked.

        Raises:
            UsageError: for a limit below 1.
            AssayError: see `assay.load.load_subject`.
        """
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be at least 1, not {self.limit}.", where="--limit", advice="Leave it out.")
        preprocessing = self.preprocessing(model)
        from assay.load import load_subject

        return load_subject(
            model,
            data=self.data,
            trust=self.trust,
            weights=self.weights,
            arch=self.arch,
            preprocessing=preprocessing,
            class_names=self.classes,
            task=self.task,
            limit=self.limit,
            inputs_key=self.inputs_key,
            targets_key=self.targets_key,
            target_column=self.target_column,
        )

    def preprocessing(self, model: str) -> Preprocessing | None:
        """The preset with the single values that were given put over it.

        Args:
            model: specification of the model.

        Returns:
            The preprocessing; None when nothing was given.

        Raises:
            UsageError: for an unknown preset, values that do not fit each other, or values without the preset that
                they change.
        """
        names = ("resize", "crop", "bounds", "scale", "mean", "std", "channel_order")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if not given and self.preprocess is None:
            return None
        from pydantic import ValidationError

        from assay.preprocess import PRESETS, Preprocessing

        if self.preprocess is not None and self.preprocess not in PRESETS:
            raise UsageError(
                f"There is no preprocessing {self.preprocess!r}.",
                where="--preprocess",
                advice=f"Presets: {', '.join(PRESETS)}.",
            )
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        if self.preprocess is None and (self.arch or model).startswith(("torchvision:", "timm:")):
            raise UsageError(
                "This network has a usual preprocessing, and these options give only a part of another one.",
                where=flags,
                advice="Say what they change: add --preprocess imagenet (or --preprocess none to start from nothing).",
            )
        try:
            return Preprocessing.model_validate(PRESETS[self.preprocess or "none"].model_dump() | given)
        except ValidationError as error:
            first = error.errors()[0]
            path = f"--{str(first['loc'][0]).replace('_', '-')}" if first["loc"] else flags
            raise UsageError(
                f"{path}: {first['msg'].removeprefix('Value error, ')}.", where=path, advice="Correct the value."
            ) from error


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much to do."""

    quick: Annotated[
        bool, Parameter(group=RUN, help="A first look: about a minute for a small network, minutes for MobileNetV2.")
    ] = False
    standard: Annotated[
        bool, Parameter(group=RUN, help="The default: up to 45 minutes and 6 GB for MobileNetV2 on two cores.")
    ] = False
    thorough: Annotated[bool, Parameter(group=RUN, help="More of everything: ten times the operations.")] = False

    def preset(self) -> str | None:
        """The preset that was chosen.

        Returns:
            Its name, None for none.

        Raises:
            UsageError: for more than one.
        """
        chosen = [name for name in ("quick", "standard", "thorough") if getattr(self, name)]
        if len(chosen) > 1:
            flags = " and ".join(f"--{name}" for name in chosen)
            raise UsageError(f"{flags} exclude each other.", where=flags, advice="Give one of them.")
        return chosen[0] if chosen else None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settling:
    """From where settings come, besides single flags."""

    config: Annotated[
        Path | None, Parameter(group=RUN, help="TOML file of settings (`assay init` writes one); flags override it.")
    ] = None
    seed: Annotated[int | None, Parameter(group=RUN, help="Seed of every analysis.")] = None
    strict: Annotated[
        bool, Parameter(group=RUN, help="Fail, naming them, when operators would have to be approximated.")
    ] = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Ending:
    """Where a run goes and how it ends."""

    output: Annotated[
        Path | None,
        Parameter(
            name=["--output", "-o"],
            group=OUTPUT,
            help="Run directory; assay-VERB when not given, or assay-VERB-2, ... where that exists.",
        ),
    ] = None
    fail_on: Annotated[
        Literal["warn", "fail", "error", "never"],
        Parameter(group=OUTPUT, help="Exit with 1 on such findings or worse."),
    ] = "fail"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Printing:
    """What is printed."""

    json: Annotated[bool, Parameter(group=OUTPUT, help="Print one JSON document instead of text.")] = False
    quiet: Annotated[
        bool, Parameter(name=["--quiet", "-q"], group=OUTPUT, help="Print errors only (and the JSON with --json).")
    ] = False
