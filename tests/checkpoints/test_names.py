"""Where the name of a packaged config, or effvim:// and a name, stands for published weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import CheckpointLoader
from PIL import Image

import effvim
import mmdet_plugin  # noqa: F401
from backbone import UserError, hub
from effvim.checkpoints import cache as weights_cache
from effvim.checkpoints import fetching, published
from effvim.cli.options import Model, split_model, split_models
from effvim.config.packaged import config_path
from effvim.config.reading import load_config
from effvim.config.weights import fetch_weights
from effvim.datasets.scenes import draw_scene
from effvim.resources import CONFIGS
from tests.helpers import published as authors
from tests.helpers.cli import run_command

NAME = 'retinanet_effvim_m4'
RAW = 'effvim://efficientvim_m1_e450_raw'
CONFIG = config_path(NAME)


def test_the_three_lines(retinanet, authors_retinanet, cache, tmp_path, monkeypatch):
    """The same boxes as with a checkpoint that `effvim convert` wrote, and one download."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_scene(np.random.RandomState(5)).image).save('photo.jpg')
    options = [
        'test_dataloader.dataset.pipeline.1.scale=(160,160)',
        'model.test_cfg.score_thr=0.0',
    ]
    prediction = effvim.Predictor(NAME, options=options)('photo.jpg')
    assert len(prediction.boxes) > 0 and len(prediction.classes) == 80
    assert prediction.classes[:2] == ('person', 'bicycle')
    assert run_command('convert', [str(authors_retinanet), 'ours.safetensors']) == 0
    expected = effvim.Predictor(NAME, 'ours.safetensors', options=options)('photo.jpg')
    for key in ('boxes', 'scores', 'labels'):
        assert np.array_equal(getattr(prediction, key), getattr(expected, key))
    argv = [NAME, 'photo.jpg', '--out', 'results', '--cfg-options', *options]
    assert run_command('infer', argv) == 0
    assert (tmp_path / 'results/images/photo.jpg').is_file()
    assert len(retinanet.requests) == 1


def test_positional_arguments(server, tmp_path, monkeypatch):
    """A packaged name without a checkpoint is its published weights, in any command."""
    monkeypatch.chdir(tmp_path)
    assert split_model([NAME]) == (None, NAME, [])  # test, export
    assert split_model([NAME, 'a.jpg', 'b'], 'images') == (None, NAME, ['a.jpg', 'b'])
    Path('mine.pth').touch()
    for argv, what in (([NAME, 'mine.pth'], ''), ([NAME, 'mine.pth', 'a.jpg'], 'images')):
        assert split_model(argv, what) == (CONFIG, 'mine.pth', argv[2:])
    assert server.requests == []


@pytest.mark.parametrize(
    'words, what, message',
    [
        (['retinanet_effvim_m1', 'a.jpg'], 'images', 'published are those of retinanet_effvim_m4'),
        (['gallery/atss_effvim_m1'], '', 'gallery/atss_effvim_m1 has no published weights'),
        ([NAME], 'images', 'no images were given'),
        ([NAME, 'absent.pth', 'a.jpg'], 'images', 'checkpoint absent.pth not found'),
        ([NAME, 'absent'], '', 'checkpoint absent not found'),
        ([CONFIG], '', 'no checkpoint was given'),  # a path is a config and nothing else
    ],
)
def test_what_is_not_published(words, what, message, server):
    with pytest.raises(UserError, match=message):
        split_model(words, what)
    assert server.requests == []


@pytest.mark.parametrize(
    'command, argv, message',
    [
        ('export', ['--out', 'model.tflite', '--size', '96', '96'], 'needs litert-torch'),
        ('infer', ['absent.jpg', '--out', 'results'], 'absent.jpg'),
        ('infer', ['a.jpg', '--out', 'results', '--track'], 'no video among the sources'),
        ('test', ['--tile', '3'], '--tile must be at least 64'),
    ],
)
def test_mistakes_are_reported_before_the_download(
    command, argv, message, server, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (8, 8)).save('a.jpg')
    monkeypatch.setattr('effvim.export.litert_file.find_spec', lambda name: None)
    assert run_command(command, [NAME, *argv]) == 2
    assert message in capsys.readouterr().err
    if command == 'export':
        with pytest.raises(UserError, match=message):
            effvim.export_model(NAME, 'model.tflite', size=(96, 96))
    assert server.requests == []


def test_functions_take_names(server, tmp_path):
    """They ask for the file; that it is used is shown by the tests above."""
    for call in (
        lambda: effvim.Predictor(NAME),
        lambda: effvim.evaluate(NAME),
        lambda: effvim.export_model(NAME, tmp_path / 'model.onnx'),
    ):
        with pytest.raises(UserError, match=f'{NAME}.pth answers 404'):
            call()
    assert len(server.requests) == 3
    with pytest.raises(UserError, match='effvim weights list'):
        effvim.Predictor('nonsense')


def test_training_takes_no_weights_in_that_place(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command('train', [NAME, '--from-scratch', '--data-root', 'absent']) == 2
    assert run_command('train', [NAME, 'photo.jpg']) == 2
    assert server.requests == []


def test_load_from(retinanet):
    cfg = load_config(CONFIG)
    cfg.load_from = f'effvim://{NAME}'
    fetch_weights(cfg)
    assert cfg.load_from == str(fetching.cached_path(NAME)) and cfg.model.backbone.init_cfg is None
    cfg = load_config(config_path('retinanet_effvim_m1'))
    cfg.load_from = f'effvim://{NAME}'
    with pytest.raises(UserError, match='another variant, m4'):
        fetch_weights(cfg)


def test_init_cfg(m1):
    """The raw weights of seed 1, not the averaged ones of seed 2, see conftest.py."""
    cfg = load_config(config_path('retinanet_effvim_m1'))
    cfg.model.backbone.init_cfg.checkpoint = RAW
    fetch_weights(cfg)
    assert cfg.model.backbone.init_cfg.checkpoint == str(fetching.cached_path(RAW))
    init_cfg = dict(type='Pretrained', checkpoint=RAW)
    network = MODELS.build(dict(type='EfficientViM', arch='m1', init_cfg=init_cfg))
    network.init_weights()
    raw = authors.filled(authors.classifier_shapes('m1'), 1)
    for name, value in network.state_dict().items():
        assert torch.equal(value.flatten(), raw[name].flatten()), name
    loaded = CheckpointLoader.load_checkpoint(RAW)  # as mmengine's own Runner does
    assert loaded['state_dict'].keys() == raw.keys()


def test_other_commands_take_them(m1, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_command('convert', [RAW, 'copy.safetensors']) == 0
    assert (tmp_path / 'copy.safetensors').is_file()


@pytest.mark.parametrize('path', sorted(CONFIGS.rglob('*_effvim_*.py')), ids=lambda p: p.stem)
def test_configs_register_the_scheme(path):
    """For the tools of mmdet and mmseg, which do not import this package by themselves."""
    cfg = Config.fromfile(path, import_custom_modules=False)
    assert 'effvim.checkpoints' in cfg.custom_imports.imports


def test_a_scheme_that_nobody_registered(monkeypatch):
    monkeypatch.setattr(hub, '_resolvers', {})
    with pytest.raises(UserError, match="add 'effvim.checkpoints' to the config's custom_imports"):
        hub.resolve(RAW)
    with pytest.raises(UserError, match='weights ftp://x not found'):
        hub.resolve('ftp://x')


def test_where_the_cache_is(monkeypatch, tmp_path):
    weights = published.find(NAME)
    monkeypatch.delenv('EFFVIM_CACHE', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert weights_cache.path_of(weights) == tmp_path / f'effvim/weights/{NAME}.safetensors'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert weights_cache.directory() == tmp_path / '.cache/effvim/weights'


def test_several_models(retinanet, cache, tmp_path):
    """Files and names in any order; a config in front is that of the files."""
    file, other = (str(tmp_path / name) for name in ('a.pth', 'b.onnx'))
    for path in (file, other):
        (tmp_path / path).touch()
    fetched = Model(NAME, CONFIG, str(cache / f'{NAME}.safetensors'), published=True)
    assert split_models([file, NAME, other]) == [
        Model(file, None, file, published=False),
        fetched,
        Model(other, None, other, published=False),
    ]
    assert split_models([NAME]) == [fetched]
    assert split_models(['semfpn_effvim_m4', file, NAME]) == [
        Model(file, config_path('semfpn_effvim_m4'), file, published=False),
        fetched,
    ]
    assert len(retinanet.requests) == 1
    for words, why in (
        ([file, 'nowhere'], 'nowhere not found'),
        ([file, 'rtmdet_effvim_m1'], 'rtmdet_effvim_m1 has no published weights'),
        ([str(CONFIGS / 'retinanet_effvim_m4.py')], 'no checkpoint was given'),
    ):
        with pytest.raises(UserError, match=why):
            split_models(words)
