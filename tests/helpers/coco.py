"""COCO's own code as the reference for metrics."""

from pathlib import Path


def assert_equals_pycocotools(
    metrics: dict, ground_truth: Path, predictions: Path, kind: str
) -> None:
    """Compare the metrics of `kind`, bbox or segm, with COCO's own code, to 1e-9."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    api = COCO(str(ground_truth))
    detections = api.loadRes(str(predictions))
    assert len(detections.anns) > 1000
    evaluation = COCOeval(api, detections, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
    # at most 100 detections an image: recall at mmdet's 300 and 1000 is COCO's at 100
    names += ['AR@100', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000']
    for name, expected in zip(names, [*evaluation.stats[:6], *evaluation.stats[8:]]):
        assert abs(metrics[f'coco/{kind}_{name}'] - expected) <= 1e-9, name
