"""`type='EfficientViM'` in the registries, and weight files of both published formats."""

import pickle

import numpy as np
import pytest
import timm
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS
from safetensors.torch import save_file
from torch import nn

import mmdet_plugin  # noqa: F401
from backbone import ARCHS, EfficientViM, EfficientViMClassifier, UserError, weights
from effvim.checkpoints import checkpoint
from tests.helpers.networks import randomised, relative


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
    assert f'loaded {len(own)} tensors, ignored {len(state) - len(own)}' in str(report)


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


@pytest.mark.parametrize('numpy', [b'numpy._core', b'numpy.core'], ids=['numpy 2', 'numpy 1'])
def test_prefix_takes_a_checkpoint_of_a_training_run(numpy, tmp_path):
    """With mmengine's log buffers and NumPy's numbers and arrays in it, in the names of either."""
    network = randomised(EfficientViM('m1'))
    numbers = [np.float64(0.3), np.float32(1), np.int64(3), np.bool_(True), np.arange(3)]
    log = HistoryBuffer([1.0, 2.0], [1, 1])
    content = {
        'state_dict': {f'backbone.{n}': v for n, v in network.state_dict().items()},
        'message_hub': {'log_scalars': {'train/loss': log}, 'runtime_info': {'best': numbers}},
    }
    torch.save(content, tmp_path / 'epoch_1.pth', _use_new_zipfile_serialization=False)
    pickled = (tmp_path / 'epoch_1.pth').read_bytes()
    assert b'numpy._core.multiarray\nscalar' in pickled and b'multiarray\n_reconstruct' in pickled
    (tmp_path / 'epoch_1.pth').write_bytes(pickled.replace(b'numpy._core', numpy))

    init_cfg = dict(type='Pretrained', checkpoint=f'{tmp_path}/epoch_1.pth', prefix='backbone')
    built = MODELS.build(dict(type='EfficientViM', arch='m1', init_cfg=init_cfg))
    built.init_weights()
    assert all(torch.equal(v, built.state_dict()[n]) for n, v in network.state_dict().items())
    # what resumes a run gets the buffers themselves
    read = checkpoint.read(tmp_path / 'epoch_1.pth')['message_hub']
    assert read['log_scalars']['train/loss'].mean() == log.mean()
    assert [str(n) for n in read['runtime_info']['best']] == [str(n) for n in numbers]


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
        MODELS.build(dict(type='EfficientViM', in_chans=3))
    with pytest.raises(UserError, match='in_channels is the images'):
        MODELS.build(dict(type='EfficientViM', in_channels=[3]))


@pytest.mark.parametrize('channels', [1, 2, 4, 7])
def test_pretrained_stems_take_other_images(channels, tmp_path):
    """As timm adapts the same file for its own port."""
    save_file(timm_state(), tmp_path / 'm.safetensors')
    theirs = timm.create_model(
        'efficientvim_m1',
        pretrained=True,
        pretrained_cfg_overlay=dict(file=str(tmp_path / 'm.safetensors')),
        in_chans=channels,
    )
    init_cfg = dict(type='Pretrained', checkpoint=f'{tmp_path}/m.safetensors')
    network = MODELS.build(
        dict(type='EfficientViM', arch='m1', in_channels=channels, init_cfg=init_cfg)
    )
    network.init_weights()
    assert f'from RGB to {channels} channels' in str(network.load_report)
    x = torch.randn(1, channels, 64, 64)
    with torch.inference_mode():
        expected = theirs.eval().forward_intermediates(x, intermediates_only=True)
        assert all(relative(a, b) <= 1e-5 for a, b in zip(network.eval()(x), expected, strict=True))


def test_weights_for_another_number_of_channels_or_classes_are_named(tmp_path):
    def saved(network):
        save_file(network.state_dict(), tmp_path / 'm.safetensors')
        return tmp_path / 'm.safetensors'

    path = saved(EfficientViM('m1', in_channels=4))
    with pytest.raises(UserError, match='images of 4 channels, the network has in_channels=3'):
        weights.load_backbone(EfficientViM('m1'), path)
    path = saved(EfficientViMClassifier('m1', num_classes=7))
    with pytest.raises(UserError, match='is for 7 classes, the network has num_classes=5'):
        weights.load_backbone(EfficientViMClassifier('m1', num_classes=5), path)
    with pytest.raises(UserError, match='no distillation heads'):
        weights.load_backbone(EfficientViMClassifier('m1', 7, distillation=True), path)
    with pytest.raises(UserError, match='no classification heads'):
        weights.load_backbone(EfficientViMClassifier('m1'), saved(EfficientViM('m1')))
