"""How long work says how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called as progress(done, total, text), with done rising to total in units of the work's own."""
