"""A detector for greyscale images."""

from pathlib import Path

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from effvim.config.editing import set_classes
from effvim.config.reading import import_plugins, load_config
from tests.helpers.networks import randomised
from tests.helpers.paths import ROOT

CONFIG = """
_base_ = {base!r}
model = dict(
    data_preprocessor=dict(mean=[114.0], std=[57.0], bgr_to_rgb=False),
    backbone=dict(in_channels=1, init_cfg=None),
    test_cfg=dict(score_thr=0.0, nms_pre=50, max_per_img=10))
load = [
    dict(type='LoadImageFromFile', color_type='grayscale'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True)]
pack = [dict(type='PackDetInputs', meta_keys=(
    'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
labels = [dict(type='LoadAnnotations', with_bbox=True)]
train_dataloader = dict(dataset=dict(pipeline=load + labels + pack))
val_dataloader = dict(dataset=dict(pipeline=load + labels + pack))
test_dataloader = dict(dataset=dict(pipeline=load + labels + pack))
"""


def save_grey() -> None:
    """Write grey.py and grey.pth into the current directory."""
    base = str(ROOT / 'configs/retinanet_effvim_m1.py')
    Path('grey.py').write_text(CONFIG.format(base=base))
    cfg = load_config('grey.py')
    set_classes(cfg, ('a', 'b'))
    import_plugins(cfg)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = randomised(revert_sync_batchnorm(MODELS.build(cfg.model))).eval()
    assert model.backbone.patch_embed.conv[0].conv.in_channels == 1
    meta = {'dataset_meta': {'classes': ('a', 'b')}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, 'grey.pth')
