"""Paths in the latent space of a decoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from assay.errors import AssayError
from assay.graph import capture
from assay.smoothness.paths.curve import as_module, differentiated
from assay.smoothness.paths.path import Path, Side
from assay.smoothness.switches import THRESHOLDS, WINNERS
from assay.subject import private_copy


class Latent:
    """x(t) = decoder(z(t)), with the tangent J(z) z' from one Jacobian-vector product in double precision.

    A decoder with ReLUs or max pools bends the path wherever one of its units switches. Those kinks belong to the path,
    and their places are not known beforehand: they are not among the knots, and measurements of a network along the
    path leave them out; `notes` says so. `composed` counts them too, layer by layer.

    Args:
        decoder: module or function, (n, ...) latents -> (n, ...) inputs; a module is used in evaluation mode.
        path: in latent space.

    Raises:
        SubjectError: when the decoder cannot be copied.

    Example:
        >>> import torch
        >>> from assay.smoothness.paths import Line
        >>> path = Latent(torch.exp, Line(torch.zeros(1), torch.ones(1)))
        >>> round(path.at(torch.tensor([0.5]))[1].item(), 6)
        1.648721
    """

    def __init__(self, decoder: nn.Module | Callable[[Tensor], Tensor], path: Path) -> None:
        self.decoder = private_copy(decoder).double() if isinstance(decoder, nn.Module) else as_module(decoder)
        self.path = path
        self.start, self.end, self.knots = path.start, path.end, path.knots
        self.notes: tuple[str, ...] = (*getattr(path, "notes", ()), *self._kinks())

    def __repr__(self) -> str:
        return f"Latent({type(self.decoder).__name__}, {self.path!r})"

    def at(self, t: Tensor, *, side: Side = "right") -> tuple[Tensor, Tensor]:
        """Where the path is at t, and where it goes.

        Returns:
            Points x(t) (n, ...) and tangents (n, ...).

        Raises:
            NumericalError: where the decoder or its derivative is not finite.
            SubjectError: when the decoder fails.
            UsageError: for parameters outside the path.
        """
        latents, tangents = self.path.at(t, side=side)
        return differentiated(self.decoder, latents, tangents, "decoder")

    def composed(self, model: nn.Module) -> tuple[nn.Module, Path]:
        """Decoder and model as one network, and the path in latent space: kinks of the decoder then count as its own.

        Args:
            model: takes what the decoder returns; shares its parameters with the result.

        Returns:
            A network in double precision and evaluation mode, and the path.
        """
        return nn.Sequential(self.decoder, private_copy(model).double()).eval(), self.path

    def _kinks(self) -> tuple[str, ...]:
        """A note on kinks of the decoder, empty when it has none."""
        latent = self.path.at(torch.tensor([self.start, self.end], dtype=torch.float64))[0]
        try:
            graph = capture(self.decoder, latent)
        except AssayError:
            return ("The decoder could not be captured; if it has kinks, the path has them, and they are not counted.",)
        bent = sorted({node.op for node in graph.layers if node.op in THRESHOLDS or node.op in WINNERS})
        opaque = sorted({node.label for node in graph.layers if node.op == "opaque"})
        notes = []
        if bent:
            notes.append(
                f"The decoder has kinks of its own ({', '.join(bent)}): the path has them too, not "
                "counted. Latent.composed(model) counts them."
            )
        if opaque:
            notes.append(f"Whether the decoder's {', '.join(opaque)} has kinks is unknown; they would not be counted.")
        return tuple(notes)
