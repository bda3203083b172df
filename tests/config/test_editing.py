"""Values of --cfg-options."""

import copy
import inspect

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from backbone.errors import UserError
from effvim.config.editing import apply_options, parse_options
from tests.helpers.paths import ROOT


@pytest.mark.parametrize(
    'value',
    ['dict(a=1)', "[dict(type='Pad')]", "[dict(type='Pad',size=(3,4))]", "{'a':1}", "[[{'a':1}]]"],
)
def test_dicts_are_refused_not_taken_for_words(value):
    with pytest.raises(UserError, match='not dicts'):
        parse_options([f'key={value}'])


@pytest.mark.parametrize(
    ('text', 'value'),
    [('[(1,2),(3,4)]', [(1, 2), (3, 4)]), ('epoch_{}.pth', 'epoch_{}.pth'), ('1e-3', 1e-3)],
)
def test_other_values_stay(text, value):
    assert parse_options([f'key={text}']) == {'key': value}


@pytest.mark.parametrize(
    'path', [*(ROOT / 'configs').glob('*.py'), *(ROOT / 'configs/gallery').glob('*.py')], ids=str
)
def test_variables_without_effect_are_refused(path):
    """mmengine's Runner takes its arguments; other names were read when the file was."""
    cfg = Config.fromfile(path, import_custom_modules=False)
    used = {*inspect.signature(Runner).parameters, 'default_scope', 'custom_imports', 'resume'}
    used |= {'auto_scale_lr', 'tta_model', 'tta_pipeline'}
    for name in cfg.keys() - used:
        with pytest.raises(UserError, match=f"the config has no '{name}'"):
            apply_options(copy.deepcopy(cfg), {name: 1})
