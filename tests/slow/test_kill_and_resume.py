"""Many killed runs, each resumed and compared with a run that nobody disturbed."""

import pytest

from tests.helpers.kill_and_resume import in_a_process


@pytest.mark.slow
def test_twenty_killed_runs_end_as_if_nothing_had_happened():
    out = in_a_process('--kills', '20', timeout=1800)
    assert '20 of 20 ended equal' in out
