"""Which differences between a model and its exported file are accepted."""

import pytest
import torch
from mmengine.structures import InstanceData
from torchvision.ops import box_iou

from effvim.export import parity


def six_instances(**changes):
    """Six instances with the given changes."""
    x = torch.arange(6.0) * 20
    values = dict(
        bboxes=torch.stack([x, x, x + 15, x + 15], 1),
        labels=torch.arange(6) % 3,
        scores=torch.linspace(0.9, 0.4, 6),
        masks=torch.zeros(6, 150, 150, dtype=bool),
    )
    for mask, box in zip(values['masks'], values['bboxes'].long().tolist()):
        mask[box[1] : box[3], box[0] : box[2]] = True
    return InstanceData(**{**values, **changes})


def faults(ours, theirs, threshold=0.3, number=10, **how):
    return parity.compare_instances([ours], [theirs], threshold, number, **how).faults


def test_boxes_scores_labels_and_masks():
    same = six_instances()
    assert not faults(same, same) and not faults(same, same[[1, 0, 2, 3, 4, 5]])
    assert not faults(same, six_instances(bboxes=same.bboxes + 0.01, scores=same.scores + 1e-5))
    assert faults(same, six_instances(bboxes=same.bboxes + 0.2))
    assert faults(same, six_instances(scores=same.scores + 0.01))
    assert faults(same, six_instances(labels=same.labels.flip(0)))
    assert faults(same, six_instances(masks=same.masks.roll(2, 2)))
    assert faults(same, same[:5]) and faults(same, same[1:])
    unknown = six_instances(scores=same.scores * torch.nan)
    assert faults(same, unknown) and faults(unknown, unknown) and faults(unknown, same[:0])


def test_only_faults_of_single_boxes_are_tolerable():
    """Which weights of half size may have; masks that are wrong are none."""
    same = six_instances()
    one = six_instances(scores=torch.cat([same.scores[:5], same.scores[5:] + 0.2]))
    inverted = six_instances(masks=~same.masks)
    outcomes = [
        parity.compare_instances([same], [other], 0.3, 10, slack=10)
        for other in (same, one, inverted)
    ]
    assert [len(outcome.faults) for outcome in outcomes] == [0, 2, 1]
    assert [outcome.is_tolerable(0.4) for outcome in outcomes] == [True, True, False]
    assert [outcome.is_tolerable(0.1) for outcome in outcomes] == [True, False, False]


def test_rounding_decides_about_the_last_boxes():
    same = six_instances()
    assert not faults(same, same[:5], threshold=0.4)
    assert faults(same, same[1:], threshold=0.4)
    assert not faults(same, same[:5], number=6)


@pytest.mark.parametrize('kept', [0, 4])
def test_few_boxes_show_nothing(kept):
    few = six_instances()[:kept]
    assert 'fewer than 5' in faults(few, few)[0]


def beside(box, score):
    """The six instances, and another one of the first one's class."""
    six = six_instances()
    more = InstanceData(
        bboxes=torch.tensor([box]),
        labels=six.labels[:1],
        scores=torch.tensor([score]),
        masks=torch.zeros(1, 150, 150, dtype=bool),
    )
    return InstanceData.cat([six, more])


# A overlaps the first of the six by as much as NMS allows, B overlaps A alone: without A there is
# B. C overlaps the first one less.
A, B, C = [4.0, 0, 19, 15], [7.0, 0, 22, 15], [5.0, 0, 20, 15]


def overlap_of_a():
    return float(box_iou(six_instances().bboxes[:1], torch.tensor([A]))[0, 0])


def test_rounding_decides_in_nms():
    same, overlap = six_instances(), overlap_of_a()
    with_a, with_b, with_c = beside(A, 0.6), beside(B, 0.5), beside(C, 0.6)
    assert not faults(with_a, same, overlap=overlap) and not faults(same, with_a, overlap=overlap)
    assert not faults(with_a, with_b, overlap=overlap + 0.001)
    assert len(faults(with_b, same, overlap=overlap)) == 1  # no A that explains it
    assert len(faults(with_c, same, overlap=overlap)) == 1
    assert len(faults(beside(A, 0.95), same, overlap=overlap)) == 1  # is the better one
    assert len(faults(with_a, same, overlap=None)) == 1


@pytest.mark.parametrize('slack', [1, 10])
@pytest.mark.parametrize('distance', [-0.006, -0.004, 0.004, 0.006])
def test_how_near_to_the_overlap_rounding_decides(slack, distance):
    overlap = overlap_of_a() + slack * distance
    outcome = parity.compare_instances([beside(A, 0.6)], [six_instances()], 0.3, 10, slack, overlap)
    assert bool(outcome.faults) == (abs(distance) > 0.005)
    assert ('on one side only' in ''.join(outcome.lines)) == (not outcome.faults)


def test_wrong_boxes_that_overlap_the_right_ones_as_much_as_nms_allows():
    same = six_instances()
    narrow = same.bboxes.clone()
    narrow[:, 2] -= 7.5
    assert len(faults(same, six_instances(bboxes=narrow), overlap=0.5)) == 13


def test_label_maps():
    labels = torch.randint(0, 9, (1, 100, 100))
    other = labels.clone()
    other[0, :1, :50] += 1
    assert not parity.compare_label_maps([labels], [labels.clone()]).faults
    assert parity.compare_label_maps([labels], [other]).faults


def test_feature_maps():
    maps = (torch.randn(8, 4, 4), torch.randn(8, 2, 2))
    assert not parity.compare_maps([maps], [tuple(m + 1e-5 for m in maps)]).faults
    assert parity.compare_maps([maps], [(maps[0], maps[1] + 0.1)]).faults
    unknown = (maps[0], maps[1] * torch.nan)
    assert parity.compare_maps([unknown], [unknown]).faults
