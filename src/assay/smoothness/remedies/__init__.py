"""What would help against kinks: pools and activations without them, predicted before the change and checked by it."""

from assay.smoothness.remedies.rewriting import Change, changeable, rewritten
from assay.smoothness.remedies.softening import softened_height
from assay.smoothness.remedies.trial import Remedy, Resolved, remedy

__all__ = ["Change", "Remedy", "Resolved", "changeable", "remedy", "rewritten", "softened_height"]
