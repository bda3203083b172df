# tools/train.py configs/mask_rcnn_effvim_m4.py --data-root data/coco
#
# Published: box AP 39.7, mask AP 36.4 on COCO val2017 after 12 epochs at batch 16 (1.12 s an
# iteration and 21,943 MiB on one RTX A6000, float32). Not measured by us.
_base_ = [
    '_base_/mask_rcnn.py',
    '_base_/coco_instance.py',
    '_base_/schedule_1x.py',
    '_base_/runtime.py',
]
