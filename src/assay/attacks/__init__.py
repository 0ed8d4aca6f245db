"""Attacks on torch alone: searches for the small input change that does the most harm.

Each returns what it found, never what might exist: the result of a search is a lower estimate of the worst case.
"""

from assay.attacks.response import Response, largest_response

__all__ = ["Response", "largest_response"]
