"""Names and numbers as a reader should see them: hostile characters made visible, sensible significant digits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from assay.results import Quantity

# Controls, invisible and direction-changing characters, lone surrogates, and what XML forbids.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_MINUS = "\u2212"
MISSING = "\u2013"
_SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def clean(text: str, limit: int = 4000) -> str:
    r"""Text in which every unseen character shows as its code point, white space is a space, and the length is limited.

    Returns:
        The text to show.

    >>> clean("a\u202eb\tc")
    'a⟨U+202E⟩b c'
    >>> clean("x" * 50, limit=9)
    'xxxxx…xxx'
    """
    if len(text) > limit:
        tail = limit * 3 // 8
        text = f"{text[: limit - tail - 1]}…{text[len(text) - tail :]}"
    return _UNSEEN.sub(_visible, text)


def short(text: str, limit: int = 90) -> str:
    """A cleaned name, shortened in the middle.

    Returns:
        The name to show.

    >>> short("layer1.0.conv1")
    'layer1.0.conv1'
    """
    return clean(str(text), limit)


def _visible(match: re.Match[str]) -> str:
    character = match.group()
    return " " if character in "\t\n\r\u2028\u2029" else f"⟨U+{ord(character):04X}⟩"


def number(value: Any, digits: int = 4) -> str:
    """A number, or a yes, no or text, as a short text; a typographic minus, no trailing noise.

    Returns:
        The text to show.

    >>> number(0.123456), number(12345678), number(1.5e-7), number(None), number(-0.5)
    ('0.1235', '12,345,678', '1.5e−7', '–', '−0.5')
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return (
            f"{value:,}".replace("-", _MINUS) if abs(value) < 10**15 else _scientific(float(min(abs(value), 10**300)))
        )
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e6:
        return _scientific(value, digits)
    if size >= 10**digits:
        return f"{value:,.0f}".replace("-", _MINUS)
    return f"{value:.{digits}g}".replace("-", _MINUS)


def _scientific(value: float, digits: int = 3) -> str:
    mantissa, exponent = f"{value:.{min(digits, 3) - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}".replace("-", _MINUS)


def column(values: Sequence[Any]) -> list[str]:
    """Texts of one column of numbers, all with the same decimals when they are of comparable size.

    Returns:
        One text per value.

    >>> column([1.0, 22.25, None])
    ['1.00', '22.25', '–']
    >>> column([1e-9, 3.0])
    ['1e−9', '3']
    """
    floats = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v) and v != 0]
    largest, smallest = max(floats, default=0.0), min(floats, default=0.0)
    if not floats or largest >= 1e6 or smallest < 1e-3 or largest > 2e4 * smallest:
        return [number(value) for value in values]
    decimals = min(max(3 - math.floor(math.log10(largest)), 0), 6)
    if smallest < 10.0 ** (1 - decimals):  # small entries keep two digits
        decimals = min(1 - math.floor(math.log10(smallest)), 6)
    while decimals > 0 and all(round(v, decimals - 1) == round(v, decimals) for v in floats):
        decimals -= 1
    return [
        f"{v:,.{decimals}f}".replace("-", _MINUS) if isinstance(v, float) and math.isfinite(v) else number(v)
        for v in values
    ]


def quantity(item: Quantity) -> tuple[str, str]:
    """Value and interval, with as many digits as the interval supports.

    Returns:
        Both texts; the second is empty when there is no interval.

    >>> from assay.grade import Grade
    >>> quantity(Quantity(0.123456, Grade.SAMPLED, low=0.11, high=0.137))
    ('0.123', '0.110 to 0.137')
    """
    low, high, value = item.low, item.high, item.value
    if low is None or high is None:
        one_side = (
            f"at least {number(low)}" if low is not None else f"at most {number(high)}" if high is not None else ""
        )
        return pretty(value), one_side
    half = (high - low) / 2
    ordinary = all(math.isfinite(x) for x in (low, high, value)) and 1e-3 <= max(abs(low), abs(high)) < 1e6
    if not ordinary or half <= 0 or isinstance(value, int):
        return pretty(value), f"{pretty(low)} to {pretty(high)}"
    smallest = min(half, abs(value)) if value else half  # two digits of the interval, and two of the value
    decimals = min(max(1 - math.floor(math.log10(smallest)), 0), 6)
    texts = [f"{x:,.{decimals}f}".replace("-", _MINUS) for x in (value, low, high)]
    return texts[0], f"{texts[1]} to {texts[2]}"


def pretty(value: Any) -> str:
    """Like `number`, with powers of ten written out for prose.

    Returns:
        The text to show.

    >>> pretty(1.5e-7)
    '1.5\u202f×\u202f10⁻⁷'
    """
    text = number(value)
    mantissa, mark, exponent = text.partition("e")
    if not mark or not isinstance(value, (int, float)) or isinstance(value, bool):
        return text
    return f"{mantissa}\u202f×\u202f{power_of_ten(int(exponent.replace(_MINUS, '-')))}"


def power_of_ten(exponent: int) -> str:
    """10 to a whole power, with superscript digits."""
    return f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def size(count: float) -> str:
    """A number of bytes.

    Returns:
        The text to show.

    >>> size(3_500_000)
    '3.5 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.3g} {unit}"
        count /= 1000
    return ""


def plural(count: int, one: str, many: str = "") -> str:
    """A count with its noun.

    Returns:
        The text to show.

    >>> plural(1, "check"), plural(3, "class", "classes")
    ('1 check', '3 classes')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"
