# tools/train.py configs/semfpn_effvim_m4.py --data-root data/ade/ADEChallengeData2016
#
# Published: mIoU 41.3 on ADE20K's validation images after 40,000 iterations at batch 32 (0.31 s
# an iteration and 3,887 MiB a card on eight RTX 2080 Ti, 4 images each, float32).
# Not measured by us. The batch of 32 is that of one process; on eight GPUs add
# --launcher pytorch --cfg-options train_dataloader.batch_size=4
_base_ = [
    '_base_/semfpn.py',
    '_base_/ade20k.py',
    '_base_/schedule_40k.py',
    '_base_/runtime_segmentation.py',
]
