"""The report of a small trained run of each kind."""

import pytest

from tests.helpers.report_page import Report
from tests.helpers.runs import KINDS


@pytest.fixture(scope='module', params=KINDS)
def report(request, run_of, tmp_path_factory):
    """The report of each kind of network."""
    return Report(run_of(request.param), tmp_path_factory.mktemp('report'))
