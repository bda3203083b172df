# tools/train.py configs/retinanet_effvim_m4.py --data-root data/coco
#
# Published: box AP 38.8 on COCO val2017 after 12 epochs at batch 16 (0.70 s an iteration and
# 17,879 MiB on one RTX A6000, float32). Not measured by us.
_base_ = [
    '_base_/retinanet.py',
    '_base_/coco_detection.py',
    '_base_/schedule_1x.py',
    '_base_/runtime.py',
]
