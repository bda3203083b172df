"""EffViMIoUMetric against NumPy."""

import numpy as np
import pytest
import torch

from backbone.errors import UserError
from mmseg_plugin.metric import EffViMIoUMetric

CLASSES = ('background', 'disc', 'triangle', 'cross', 'star')


def evaluate(predicted, ground_truth, **settings):
    metric = EffViMIoUMetric(**settings)
    metric.dataset_meta = dict(classes=CLASSES)
    for f, t in zip(predicted, ground_truth):
        metric.process(
            {},
            [
                dict(
                    pred_sem_seg=dict(data=torch.from_numpy(f)[None]),
                    gt_sem_seg=dict(data=torch.from_numpy(t)[None]),
                )
            ],
        )
    return metric.evaluate(len(predicted))


def maps(seed=0):
    """Predicted and true label maps of several sizes; 255 is ignored, no star occurs."""
    rng = np.random.default_rng(seed)
    ground_truth = [rng.integers(0, 4, (30 + i, 40)) for i in range(5)]
    predicted = [
        np.where(rng.random(t.shape) < 0.7, t, rng.integers(0, 4, t.shape)) for t in ground_truth
    ]
    for t in ground_truth:
        t[rng.random(t.shape) < 0.1] = 255
    return predicted, ground_truth


def expected(predicted, ground_truth):
    """IoU and Acc per class, and accuracy over all pixels, in percent."""
    f, t = (np.concatenate([m.ravel() for m in ms]) for ms in (predicted, ground_truth))
    f, t = f[t != 255], t[t != 255]
    iou, acc = {}, {}
    for i, name in enumerate(CLASSES):
        if ((f == i) | (t == i)).any():
            iou[name] = 100 * ((f == i) & (t == i)).sum() / ((f == i) | (t == i)).sum()
        if (t == i).any():
            acc[name] = 100 * ((f == i) & (t == i)).sum() / (t == i).sum()
    return iou, acc, 100 * (f == t).mean()


def test_equals_numpy():
    predicted, ground_truth = maps()
    iou, acc, all_pixels = expected(predicted, ground_truth)
    assert len(iou) == len(acc) == 4
    numbers = evaluate(predicted, ground_truth)
    assert list(numbers)[:3] == ['mIoU', 'mAcc', 'aAcc']
    assert numbers == pytest.approx(
        {
            'mIoU': np.mean(list(iou.values())),
            'mAcc': np.mean(list(acc.values())),
            'aAcc': all_pixels,
            **{f'IoU.{k}': v for k, v in iou.items()},
            **{f'Acc.{k}': v for k, v in acc.items()},
        },
        abs=1e-9,
    )
    assert all(type(v) is float for v in numbers.values())


def test_a_class_that_is_only_predicted_counts_as_wrong():
    predicted, ground_truth = maps()
    predicted[0][:9] = 4
    iou, acc, _ = expected(predicted, ground_truth)
    assert iou['star'] == 0 and 'star' not in acc
    numbers = evaluate(predicted, ground_truth)
    assert numbers['IoU.star'] == 0 and 'Acc.star' not in numbers
    assert numbers['mIoU'] == pytest.approx(np.mean(list(iou.values())), abs=1e-9)
    assert numbers['mAcc'] == pytest.approx(np.mean(list(acc.values())), abs=1e-9)


def test_an_ignored_class_is_excluded_from_the_means_only():
    predicted, ground_truth = maps()
    whole, rest = (
        evaluate(predicted, ground_truth),
        evaluate(predicted, ground_truth, ignored_classes=['background']),
    )
    iou, acc, _ = expected(predicted, ground_truth)
    assert rest['mIoU'] == pytest.approx(np.mean([v for k, v in iou.items() if k != 'background']))
    assert rest['mAcc'] == pytest.approx(np.mean([v for k, v in acc.items() if k != 'background']))
    assert rest['mIoU'] != pytest.approx(whole['mIoU'])
    assert {k: v for k, v in rest.items() if k[0] != 'm'} == {
        k: v for k, v in whole.items() if k[0] != 'm'
    }


def test_the_mean_that_mmseg_rounds_is_the_same():
    from mmseg.evaluation import IoUMetric

    predicted, ground_truth = maps()
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=CLASSES)
    for f, t in zip(predicted, ground_truth):
        metric.process(
            {},
            [
                dict(
                    pred_sem_seg=dict(data=torch.from_numpy(f)),
                    gt_sem_seg=dict(data=torch.from_numpy(t)),
                )
            ],
        )
    theirs, ours = metric.evaluate(len(predicted)), evaluate(predicted, ground_truth)
    assert set(theirs) == {'mIoU', 'mAcc', 'aAcc'}
    assert all(ours[k] == pytest.approx(v, abs=0.005 + 1e-4) for k, v in theirs.items())


def test_counts_stay_exact_where_float32_ends():
    """2²⁴ pixels of one class, in one image and over several."""
    side = 4100
    ground_truth = [np.zeros((side, side), np.uint8), np.zeros((1, 3), np.uint8)]
    predicted = [ground_truth[0].copy(), np.ones((1, 3), np.uint8)]
    predicted[0][0, :5] = 1
    numbers = evaluate(predicted, ground_truth)
    assert side**2 > 2**24
    assert numbers['IoU.background'] == pytest.approx(
        100 * (side**2 - 5) / (side**2 + 3), abs=1e-12
    )


def test_ignored_classes_are_names():
    predicted, ground_truth = maps()
    one, several = (
        evaluate(predicted, ground_truth, ignored_classes=names)
        for names in ('background', ['background'])
    )
    assert one == several
    with pytest.raises(UserError, match='no class .back., only background'):
        evaluate(predicted, ground_truth, ignored_classes=['back'])
