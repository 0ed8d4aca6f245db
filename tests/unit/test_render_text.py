"""Numbers and names as they are shown."""

import math

import pytest

from assay.grade import Grade
from assay.render import text
from assay.results import Quantity


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (12345.678, "12,346"),
        (999999.9, "1,000,000"),
        (1e6, "1e6"),
        (0.001, "0.001"),
        (0.00099, "9.9e−4"),
        (-2.5e-12, "−2.5e−12"),
        (math.nan, "NaN"),
        (-math.inf, "−∞"),
        (True, "yes"),
        (-1234, "−1,234"),
        (10**30, "1e30"),
        (10**400, "1e300"),
        ("name", "name"),
    ],
)
def test_numbers(value, shown):
    assert text.number(value) == shown


def test_a_column_shares_its_decimals():
    assert text.column([0.02051, 0.0366, None, 0.1]) == ["0.0205", "0.0366", "–", "0.1000"]
    assert text.column([1.5, 20.25, 300.125]) == ["1.5", "20.2", "300.1"]
    assert text.column([1, 200]) == ["1", "200"]
    assert text.column([2.0, math.nan, -4.0]) == ["2", "NaN", "−4"]


def test_small_entries_of_a_column_keep_two_digits():
    assert text.column([0.77, 1311.71]) == ["0.77", "1,311.71"]
    assert text.column([1e-8, 1e8]) == ["1e−8", "1e8"]


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (7.3184, 1.02, 24.7, ("7.3", "1.0 to 24.7")),
        (7.41, 7.02, 7.8, ("7.41", "7.02 to 7.80")),
        (0.0, -0.5, 0.5, ("0.00", "−0.50 to 0.50")),
        (0.5, 0.5, 0.5, ("0.5", "0.5 to 0.5")),
        (1e-9, 5e-10, 2e-9, ("1\u202f×\u202f10⁻⁹", "5\u202f×\u202f10⁻¹⁰ to 2\u202f×\u202f10⁻⁹")),
        (3.0, None, 4.0, ("3", "at most 4")),
        (3.0, 2.0, None, ("3", "at least 2")),
        (3.0, None, None, ("3", "")),
        (math.nan, 0.0, 1.0, ("NaN", "0 to 1")),
    ],
)
def test_intervals_decide_the_digits(value, low, high, shown):
    assert text.quantity(Quantity(value, Grade.SAMPLED, low=low, high=high)) == shown


def test_clean_shows_what_is_unseen_and_keeps_languages():
    assert text.clean("a\u202eb\x00c\ud800") == "a⟨U+202E⟩b⟨U+0000⟩c⟨U+D800⟩"
    assert text.clean("Ünï 日本語 עברית 👍") == "Ünï 日本語 עברית 👍"
    assert text.clean("\x1b[31mred\x9b\nnext") == "⟨U+001B⟩[31mred⟨U+009B⟩ next"
    assert len(text.short("x" * 10_000)) == 90
