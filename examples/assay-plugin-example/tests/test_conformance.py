"""Every part passes the conformance test that assay has for its kind. Run with pytest, the package installed."""

import pytest
from assay_plugin_example.annotations import export

from assay.conformance import check_analysis, check_operator, check_renderer, check_rule
from assay.errors import SubjectError
from assay.load import load_subject
from assay.moments.rules import TABLE


def test_operator():
    check_operator("dead_zone")


def test_rule():
    check_rule(TABLE, "dead_zone")


def test_analysis():
    check_analysis("occlusion")


def test_renderer():
    check_renderer(export)


def test_what_is_no_picture_is_refused():
    from assay_plugin_example.blanking import analyse

    with pytest.raises(SubjectError, match="pictures"):
        analyse(load_subject("demo:regression", limit=4))
