"""Rules that the numbers of a run have to meet, for continuous integration: `sensitivity.bits.max <= 8`.

`read_rules` takes them from a TOML file, `parse_rule` from a text, `check` puts them to an audit, and `listing` shows
every number that a rule could name.
"""

from assay.requiring.check import check
from assay.requiring.listing import listing
from assay.requiring.rules import Rule, parse_rule, read_rules

__all__ = ["Rule", "check", "listing", "parse_rule", "read_rules"]
