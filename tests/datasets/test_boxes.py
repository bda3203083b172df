"""What is wrong with a box, and by how much it may leave its image."""

import math

import pytest

from effvim.datasets.boxes import BoxProblem, box_problem, clip_box


@pytest.mark.parametrize(
    'box, problem',
    [
        ((0, 0, 64, 48), None),
        ((5, 5, 5, 5), None),
        ((-1, -1, 65, 49), None),
        ((-1.01, 0, 9, 9), BoxProblem.LEAVES),
        ((0, 0, 9, 49.5), BoxProblem.LEAVES),
        ((-9, -9, -0.5, -0.5), BoxProblem.OUTSIDE),
        ((64.5, 0, 65, 9), BoxProblem.OUTSIDE),
        ((9, 9, 8, 12), BoxProblem.NEGATIVE),
        ((0, 0, math.nan, 9), BoxProblem.NOT_FINITE),
        ((0, 0, math.inf, 9), BoxProblem.NOT_FINITE),
    ],
)
def test_problems(box, problem):
    assert box_problem(box, 64, 48) is problem


def test_a_clipped_box_ends_at_the_edge():
    assert clip_box((-3, 2, 99, 50), 64, 48) == (0, 2, 64, 48)
