"""`type='EfficientViM'` in the registries, and weight files of both published formats."""

import pickle

import pytest
import timm
import torch
from mmengine.registry import MODELS
from safetensors.torch import save_file
from torch import nn

import mmdet_plugin  # noqa: F401
from backbone import ARCHS, EfficientViM, UserError, weights
from tests.helpers.networks import randomised


def timm_state(arch='m1'):
    return randomised(timm.create_model(f'efficientvim_{arch}')).state_dict()


def authors_state(state):
    """The same weights as the authors' files shape them."""
    state = dict(state)
    for name, value in state.items():
        if name.startswith('norm.3.'):
            state[name] = value.reshape(1, -1, 1, 1)
        elif name.startswith('norm.') or ('.blocks.' in name and name.split('.')[4] == 'norm'):
            state[name] = value.reshape(1, -1, 1)
    return state


class CfgNode(dict):
    """Stands for yacs.config.CfgNode, which the authors' pickles hold."""

    __module__ = 'yacs.config'


def save_authors(path, state, monkeypatch):
    """`model` and `model_ema` next to optimiser state and a pickled yacs config object."""
    import sys
    import types

    module = types.ModuleType('yacs.config')
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
    monkeypatch.setitem(sys.modules, 'yacs.config', module)
    config = CfgNode(MODEL=CfgNode(NAME='EfficientViM_M1'))
    config.__dict__['__immutable__'] = True
    ema = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    torch.save({'model': state, 'model_ema': ema, 'optimizer': {'lr': 1}, 'config': config}, path)
    monkeypatch.delitem(sys.modules, 'yacs')
    monkeypatch.delitem(sys.modules, 'yacs.config')


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg'])
def test_found_from_every_scope(scope):
    import importlib

    registry = importlib.import_module(f'{scope}.registry').MODELS
    backbone = registry.build(dict(type='EfficientViM', arch='m2', out_indices=(0, 2)))
    assert isinstance(backbone, EfficientViM)
    assert [i.channels for i in backbone.feature_info] == [128, 512]


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('form', ['timm', 'authors'])
def test_both_formats_load_whole(arch, form, tmp_path, monkeypatch):
    state = timm_state(arch)
    if form == 'timm':
        path = tmp_path / 'model.safetensors'
        save_file(state, path)
    else:
        path = tmp_path / 'checkpoint.pth'
        save_authors(path, authors_state(state), monkeypatch)
    backbone = MODELS.build(
        dict(type='EfficientViM', arch=arch, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    )
    backbone.init_weights()
    own = backbone.state_dict()
    assert all(torch.equal(own[name], state[name]) for name in own)
    report = weights.load_backbone(backbone, path)
    assert report.loaded == len(own)
    assert sorted(report.ignored) == sorted(set(state) - set(own))
    assert f'loaded {len(own)}/{len(own)} tensors, ignored {len(state) - len(own)}' in str(report)


def test_a_list_of_steps_does_not_pass_by_the_checks(tmp_path):
    save_file(timm_state('m2'), tmp_path / 'm.safetensors')
    backbone = MODELS.build(
        dict(
            type='EfficientViM',
            arch='m1',
            init_cfg=[dict(type='Pretrained', checkpoint=str(tmp_path / 'm.safetensors'))],
        )
    )
    with pytest.raises(UserError, match='another variant'):
        backbone.init_weights()


def test_surplus_blocks_are_not_left_in_silence(tmp_path):
    save_file(timm_state('m4'), tmp_path / 'm.safetensors')
    arch = dict(widths=(224, 320, 512), depths=(1, 2, 1), state_dims=(64, 32, 16))
    with pytest.raises(UserError, match='not part of the network'):
        weights.load_backbone(EfficientViM(arch), tmp_path / 'm.safetensors')


def test_prefix_takes_a_detectors_backbone(tmp_path):
    state = timm_state()
    detector = {f'backbone.{n}': v for n, v in EfficientViM('m1').state_dict().items()}
    detector = {n: state[n.removeprefix('backbone.')] for n in detector}
    torch.save({'state_dict': {**detector, 'neck.x': torch.ones(1)}}, tmp_path / 'd.pth')
    network = EfficientViM('m1')
    assert weights.load_backbone(network, tmp_path / 'd.pth', 'backbone').ignored == []
    assert torch.equal(
        network.state_dict()['patch_embed.conv.0.conv.weight'],
        state['patch_embed.conv.0.conv.weight'],
    )
    with pytest.raises(UserError, match='prefix'):
        weights.load_backbone(network, tmp_path / 'd.pth')
    with pytest.raises(UserError, match='names in it begin with backbone, neck'):
        weights.load_backbone(network, tmp_path / 'd.pth', 'back')


def test_fewer_stages_count_what_they_ignore(tmp_path):
    save_file(timm_state(), tmp_path / 'm.safetensors')
    report = weights.load_backbone(EfficientViM('m1', out_indices=(0,)), tmp_path / 'm.safetensors')
    assert 'of stages that are not used' in str(report)


def spoil(state, how):
    name = 'stages.1.blocks.0.ffn.fc1.conv.weight'
    if how == 'missing':
        del state[name]
    elif how == 'shape':
        state[name] = state[name][:-1].clone()
    else:
        state['rubbish.weight'] = torch.ones(3)
    return 'rubbish' if how == 'strange' else name


@pytest.mark.parametrize('how', ['missing', 'shape', 'strange'])
def test_what_does_not_fit_fails_and_changes_nothing(how, tmp_path):
    state = timm_state()
    name = spoil(state, how)
    save_file(state, tmp_path / 'm.safetensors')
    network = EfficientViM('m1')
    before = {n: v.clone() for n, v in network.state_dict().items()}
    with pytest.raises(UserError, match=name):
        weights.load_backbone(network, tmp_path / 'm.safetensors')
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())


def test_another_variant_is_said(tmp_path):
    save_file(timm_state('m2'), tmp_path / 'm.safetensors')
    with pytest.raises(UserError, match='another variant'):
        weights.load_backbone(EfficientViM('m1'), tmp_path / 'm.safetensors')


class Payload:
    def __reduce__(self):
        import os

        return os.mkdir, ('payload-ran',)


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_file_is_refused_by_name_and_not_run(legacy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(
        {'model': timm_state(), 'config': Payload()},
        'evil.pth',
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(UserError, match=r'refused: it asks for posix\.mkdir'):
        weights.read('evil.pth')
    with open('plain.pkl', 'wb') as file:
        pickle.dump(Payload(), file, protocol=2)
    with pytest.raises(UserError, match='plain.pkl'):
        weights.read('plain.pkl')
    assert not (tmp_path / 'payload-ran').exists()


@pytest.mark.parametrize('name', ['m.pth', 'm.safetensors'])
@pytest.mark.parametrize('how', ['absent', 'empty', 'truncated', 'rubbish', 'text'])
def test_broken_files_are_named(name, how, tmp_path):
    path = tmp_path / name
    good = tmp_path / ('good' + path.suffix)
    state = {'a.weight': torch.randn(100, 100)}
    save_file(state, good) if good.suffix == '.safetensors' else torch.save(state, good)
    content = {
        'empty': b'',
        'truncated': good.read_bytes()[:-5000],
        'rubbish': bytes(range(256)),
        'text': b'version https://git-lfs\n',
    }
    if how != 'absent':
        path.write_bytes(content[how])
    with pytest.raises(UserError, match=name):
        weights.read(path)


def test_hub_weights_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(UserError) as caught:
        weights.resolve('timm/efficientvim_m4.e450_in1k')
    message = str(caught.value)
    assert 'hf download timm/efficientvim_m4.e450_in1k model.safetensors' in message
    assert '--from-scratch' in message and str(tmp_path) in message
    with pytest.raises(UserError, match='not found'):
        weights.resolve('timm/resnet50')


def test_hub_weights_from_the_cache(tmp_path, monkeypatch):
    repo = tmp_path / 'models--timm--efficientvim_m1.e450_in1k'
    snapshot = repo / 'snapshots/abc'
    snapshot.mkdir(parents=True)
    (repo / 'refs').mkdir()
    (repo / 'refs/main').write_text('abc')
    save_file(timm_state(), snapshot / 'model.safetensors')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.file_download.HF_HUB_CACHE', str(tmp_path), raising=False)
    assert weights.resolve('timm/efficientvim_m1.e450_in1k').parent == snapshot


def test_other_init_cfg_is_mmengines():
    backbone = MODELS.build(
        dict(
            type='EfficientViM', arch='m1', init_cfg=dict(type='Constant', layer='Conv2d', val=0.5)
        )
    )
    backbone.init_weights()
    assert all((m.weight == 0.5).all() for m in backbone.modules() if isinstance(m, nn.Conv2d))
    with pytest.raises(TypeError):
        MODELS.build(dict(type='EfficientViM', in_channels=[3]))
