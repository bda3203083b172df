"""A detector for greyscale images."""

from pathlib import Path

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

from effvim.config.editing import set_classes
from effvim.config.reading import import_plugins, load_config
from tests.helpers.documentation import BLOCK
from tests.helpers.networks import randomised
from tests.helpers.paths import ROOT

GUIDE = ROOT / 'docs/fine_tuning.md'

SMALL = """
model['backbone']['init_cfg'] = None
model['test_cfg'] = dict(score_thr=0.0, nms_pre=50, max_per_img=10)
"""


def config_of_the_guide() -> str:
    """The config that the documentation shows, for smaller images."""
    blocks = BLOCK.findall(GUIDE.read_text('utf-8'))
    (code,) = (block for _, block in blocks if 'in_channels=1' in block)
    for shown, ours in (
        ("'configs/retinanet_effvim_m1.py'", repr(str(ROOT / 'configs/retinanet_effvim_m1.py'))),
        ('(1333, 800)', '(128, 128)'),
    ):
        assert shown in code
        code = code.replace(shown, ours)
    return code + SMALL


def save_grey() -> None:
    """Write grey.py and grey.pth into the current directory."""
    Path('grey.py').write_text(config_of_the_guide())
    cfg = load_config('grey.py')
    set_classes(cfg, ('a', 'b'))
    import_plugins(cfg)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = randomised(revert_sync_batchnorm(MODELS.build(cfg.model))).eval()
    assert model.backbone.patch_embed.conv[0].conv.in_channels == 1
    meta = {'dataset_meta': {'classes': ('a', 'b')}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, 'grey.pth')
