"""The configs of docs/integration.md are read, and their models compute losses and predictions."""

import re

import pytest
import torch

from effvim.config.reading import import_plugins, load_config
from tests.helpers.paths import ROOT

PAGE = (ROOT / 'docs/integration.md').read_text('utf-8')
CONFIGS = dict(re.findall(r"```python\n(_base_ = '(\w+)::.*?)```", PAGE, re.S))


def test_there_is_one_of_each_library():
    assert sorted(CONFIGS.values()) == ['mmdet', 'mmseg']


@pytest.mark.parametrize('content', CONFIGS, ids=CONFIGS.get)
def test_a_config_of_the_page(content, tmp_path):
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    path = tmp_path / 'my_config.py'
    path.write_text(content)
    cfg = load_config(str(path))
    assert cfg.model.backbone.init_cfg.checkpoint.startswith('timm/efficientvim_m2')
    cfg.model.backbone.init_cfg = None  # downloaded
    import_plugins(cfg)
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    assert type(model.backbone).__name__ == 'EfficientViMBackbone'
    with torch.no_grad():
        outputs = model(torch.rand(1, 3, 128, 192), mode='tensor')
    if CONFIGS[content] == 'mmseg':
        assert outputs.shape == (1, 150, 8, 12)  # stride 16, of the first feature map
        assert not model.with_auxiliary_head
    else:
        scores, _ = outputs
        assert [tuple(x.shape[2:]) for x in scores] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
