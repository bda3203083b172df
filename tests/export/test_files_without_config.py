"""Exported files without a config: the images and results of mmdet's and mmseg's pipelines."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from PIL import Image

from backbone.openmmlab import ops
from effvim.config.machine import num_cores
from effvim.config.reading import import_plugins, load_config
from effvim.export.metadata import resize_rules
from effvim.inference.exported_file import normalised, resized_labels
from effvim.inference.exported_network import ExportedNetwork, prepare_image
from effvim.inference.network import Network
from effvim.inference.object_masks import paste
from effvim.inference.predictor import Predictor
from effvim.inference.preprocessing import Prepare
from tests.helpers.cli import run_command
from tests.helpers.exports import path_of, pipeline_of
from tests.helpers.paths import ROOT
from tests.helpers.videos import write_video

CONFIGS = [
    path.relative_to(ROOT / 'configs').with_suffix('').as_posix()
    for path in sorted((ROOT / 'configs').rglob('*_effvim_*.py'))
]


def photo(height, width):
    """An image of blobs, H W 3, uint8."""
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


@pytest.mark.parametrize('name', CONFIGS)
def test_images_are_those_of_the_pipeline(name):
    cfg = load_config(path_of(name))
    import_plugins(cfg)
    pipeline, rules = pipeline_of(cfg), resize_rules(cfg)
    for height, width in ((48, 64), (300, 210), (421, 640), (1100, 1530)):
        image = photo(height, width)
        sample = pipeline(dict(img=image[..., ::-1].copy(), img_id=0))
        found, place = prepare_image(image, rules)
        np.testing.assert_array_equal(found, sample['inputs'].numpy())
        about = sample['data_samples'].metainfo
        assert place.shape == about['img_shape'][:2] and place.original == about['ori_shape'][:2]
        assert place.scale == pytest.approx(about.get('scale_factor', place.scale), rel=0)


STEPS = dict(
    load=dict(type='LoadImageFromFile', backend_args=None),
    resize=dict(type='mmdet.Resize', scale=(64, 48), keep_ratio=True),
    multiple=dict(type='ResizeToMultiple', size_divisor=16, _scope_='mmseg'),
    pad=dict(type='Pad', size=(64, 64), pad_val=dict(img=(114, 114, 114))),
    pack=dict(type='PackDetInputs'),
)


def rules_of(order=tuple(STEPS), **changes):
    steps = {name: {**step, **changes.get(name, {})} for name, step in STEPS.items()}
    pipeline = [steps[name] for name in order]
    return resize_rules(Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline)))))


def test_rules_of_a_pipeline():
    expected = dict(
        scale=[64, 48], keep_ratio=True, multiple=16, pad=dict(size=[64, 64], value=114)
    )
    assert rules_of() == expected
    assert rules_of(load=dict(imdecode_backend='pillow')) == expected  # the image is in memory
    assert rules_of(multiple=dict(interpolation=None)) == expected


@pytest.mark.parametrize(
    'changes',
    [
        dict(load=dict(color_type='grayscale')),
        dict(load=dict(to_float32=True)),
        dict(load=dict(type='LoadImageFromWebcam')),
        dict(load=dict(type='mine.LoadImageFromFile')),
        dict(resize=dict(interpolation='nearest')),
        dict(resize=dict(backend='pillow')),
        dict(resize=dict(scale=None, scale_factor=0.5)),
        dict(multiple=dict(size_divisor=(32, 64))),
        dict(pad=dict(padding_mode='reflect')),
        dict(pad=dict(pad_val=dict(img=(1, 2, 3)))),
        dict(pad=dict(pad_val=dict(img=114.0))),  # of which OpenCV makes (114, 0, 0)
        dict(pad=dict(pad_val=dict(img=()))),
        dict(pad=dict(size=None, size_divisor=32)),
        dict(resize=dict(type='CenterCrop')),
        dict(order=('load', 'pad', 'resize', 'pack')),
        dict(order=('load', 'resize', 'resize', 'pack')),
        dict(order=('resize', 'pack', 'load')),
    ],
    ids=str,
)
def test_other_pipelines_need_their_config(changes):
    assert rules_of(**changes) is None


def arrays(prediction):
    names = ('boxes', 'scores', 'labels', 'masks', 'label_map')
    return {name: getattr(prediction, name) for name in names}


@pytest.mark.parametrize('tile', [None, 64])
def test_results_are_those_with_the_config(made, tile):
    alone, with_config = Predictor(made.file, tile=tile), Predictor(made.config, made.file)
    assert isinstance(alone.network, ExportedNetwork) and isinstance(with_config.network, Network)
    for name in ('name', 'segments', 'classes', 'nms_iou', 'in_flight'):
        assert getattr(alone.network, name) == getattr(with_config.network, name), name
    images = [photo(96, 128), photo(131, 97)]
    pairs = zip(alone(images), with_config.in_tiles(tile)(images))
    for found, expected in pairs:
        assert found.label_map is not None or len(found.boxes) >= 5
        for name, value in arrays(expected).items():
            mine = arrays(found)[name]
            assert type(mine) is type(value), name
            if value is not None:
                np.testing.assert_array_equal(np.asarray(mine), np.asarray(value), err_msg=name)
                assert np.asarray(mine).dtype == np.asarray(value).dtype


def stripped(file, folder, **metadata):
    """A copy of an ONNX file with other metadata; None: without it."""
    model = onnx.load(file)
    about = {item.key: item.value for item in model.metadata_props}
    about.update({name: json.dumps(value) for name, value in metadata.items()})
    onnx.helper.set_model_props(model, about)
    for item in list(model.metadata_props):
        if metadata.get(item.key, 0) is None and item.key != 'resize':
            model.metadata_props.remove(item)
    onnx.save(model, folder / 'model.onnx')
    return folder / 'model.onnx'


@pytest.mark.parametrize('change', [dict(segments=None), dict(resize=None)], ids=str)
def test_files_that_need_their_config(made, tmp_path, change):
    """Of earlier versions, and of other pipelines; their configs are packaged."""
    file = stripped(made.file, tmp_path, **change)
    predictor = Predictor(file)
    assert isinstance(predictor.network, Network)
    image = photo(96, 128)
    found, expected = arrays(predictor(image)), arrays(Predictor(made.file)(image))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


PAD = dict(size=[64, 64], value=0)
RULES = dict(scale=[64, 64], keep_ratio=True, multiple=None, pad=PAD)


@pytest.mark.parametrize(
    'change',
    [
        dict(effvim=[]),
        dict(effvim={}),
        dict(effvim={'config': 'retinanet_effvim_m1.py', 'format': '2'}),
        dict(effvim={'config': 'retinanet_effvim_m1.py', 'options': ['a']}),
        dict(effvim={'config': 'retinanet_effvim_m1.py', 'options': {'a': '('}}),
        dict(kind=None),
        dict(classes='cat'),
        dict(classes=[1]),
        dict(size=[64]),
        dict(input='grey'),
        dict(settings=None),
        dict(settings={}),
        dict(segments='no'),
        dict(resize='no'),
        dict(resize=dict(scale=[64, 64])),
        dict(resize={**RULES, 'scale': [64, 0]}),
        dict(resize={**RULES, 'scale': 64}),
        dict(resize={**RULES, 'keep_ratio': 1}),
        dict(resize={**RULES, 'multiple': 'a'}),
        dict(resize={**RULES, 'pad': {**PAD, 'value': -1}}),
        dict(resize={**RULES, 'pad': {**PAD, 'size': [True, 64]}}),
        dict(resize={**RULES, 'crop': 3}),
    ],
    ids=str,
)
@pytest.mark.parametrize('trained', ['RetinaNet'], indirect=True)
def test_changed_metadata(made, tmp_path, capsys, change):
    file = stripped(made.file, tmp_path, **change)
    Image.fromarray(photo(48, 64)).save(tmp_path / 'a.png')
    argv = [str(file), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out')]
    assert run_command('infer', argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'its metadata has no {next(iter(change))} that' in line and 'export again' in line


@pytest.mark.parametrize('trained', ['RetinaNet'], indirect=True)
def test_what_goes_through_the_config(made, tmp_path, capsys):
    """A choice that only a config can take; without one a config next to the file is not read."""
    file = shutil.copy(made.file, tmp_path / 'model.onnx')
    (tmp_path / Path(made.config).name).write_text('raise RuntimeError("read")')
    Image.fromarray(photo(96, 128)).save(tmp_path / 'a.png')
    argv = [str(file), str(tmp_path / 'a.png'), '--out', str(tmp_path / 'out')]
    assert run_command('infer', argv) == 0
    scale = 'test_dataloader.dataset.pipeline.1.scale=(64,64)'
    for choice in (['--cfg-options', scale], ['--mini'], ['--from-scratch']):
        capsys.readouterr()
        assert run_command('infer', [*argv, *choice]) == 2
        assert 'RuntimeError: read' in capsys.readouterr().err, choice


def test_images_without_a_pixel_left(made, tmp_path, capsys):
    Image.fromarray(photo(2, 3000)).save(tmp_path / 'thin.png')
    Image.fromarray(photo(1, 1)).save(tmp_path / 'pixel.png')
    argv = ['infer', str(made.file), str(tmp_path), '--out', str(tmp_path / 'out')]
    assert run_command(*argv[:1], argv[1:]) == 1
    printed = capsys.readouterr()
    assert '1 of 2 images done' in printed.out
    assert printed.err.startswith(f'skipped: {tmp_path}/thin.png: 3000 × 2 pixels are too long')


START = """
import sys
from effvim.cli.main import run
NAMES = 'torch', 'torchvision', 'timm', 'mmengine', 'mmcv', 'mmdet', 'mmseg'
status = run(sys.argv[1:])
loaded = [name for name in NAMES if name in sys.modules]
print(status, *loaded)
"""


@pytest.mark.parametrize('source', ['images', 'a video'])
def test_what_a_file_loads(made, source, tmp_path):
    """Only masks of objects need torch, nothing OpenMMLab, which together take seconds."""
    out = tmp_path / 'out'
    if source == 'images':
        Image.fromarray(photo(96, 128)).save(tmp_path / 'a.png')
        argv = [str(tmp_path / 'a.png'), '--json', '--classes', made.classes[0]]
        argv += ['--save', 'yolo', 'labelme'] if made.kind != 'EncoderDecoder' else []
    else:
        write_video(tmp_path / 'a.mp4', 3)
        argv = [str(tmp_path / 'a.mp4'), '--json']
        argv += ['--track', '--mot'] if made.kind != 'EncoderDecoder' else []
    process = subprocess.run(
        [sys.executable, '-c', START, 'infer', str(made.file), *argv, '--out', str(out)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    loaded = ['torch'] * (made.kind == 'MaskRCNN')
    assert process.stdout.splitlines()[-1].split() == ['0', *loaded]
    assert (out / ('images/a.png' if source == 'images' else 'videos/a.mp4')).is_file()


WITH_CONFIG = """
import sys
from effvim import Predictor
import numpy as np
Predictor(*sys.argv[1:])(np.zeros((96, 128, 3), np.uint8))
print(*(name for name in ('mmdet.models', 'mmseg.models') if name in sys.modules))
"""


def test_with_a_config_the_models_are_not_loaded(made):
    """mmdet's and mmseg's, which take a second to load."""
    process = subprocess.run(
        [sys.executable, '-c', WITH_CONFIG, made.config, str(made.file)],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == []


THREADS = """
import sys
from effvim.config.runtime import RuntimeChoices
before = RuntimeChoices().num_threads()
assert 'torch' not in sys.modules
import torch
print(before, torch.get_num_threads(), RuntimeChoices().num_threads())
torch.set_num_threads(3)
assert RuntimeChoices().num_threads() == 3 and RuntimeChoices(threads=5).num_threads() == 5
"""


@pytest.mark.parametrize('told', ['', '1', ' 1', '2,1'])
def test_threads_are_as_many_as_pytorch_takes(told):
    environment = {key: value for key, value in os.environ.items() if '_THREAD' not in key}
    environment.update({'OMP_NUM_THREADS': told} if told else {}, PYTHONPATH=str(ROOT))
    if not told and num_cores() != psutil.cpu_count(logical=False):
        pytest.skip('not all cores, or some twice')  # PyTorch counts in other ways then
    command = [sys.executable, '-c', THREADS]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert len(set(process.stdout.split())) == 1, process.stdout


def test_label_maps_take_pytorchs_nearest_label():
    rng = np.random.default_rng(0)
    sizes = [(rng.integers(1, 900, 2), rng.integers(1, 1500, 2)) for _ in range(60)]
    sizes += [((n, m), (m, n)) for n in range(1, 30) for m in range(1, 30)]
    for old, new in sizes:
        labels = rng.integers(0, 150, old)
        expected = F.interpolate(
            torch.from_numpy(labels)[None, None].float(), tuple(map(int, new)), mode='nearest-exact'
        )
        np.testing.assert_array_equal(resized_labels(labels, new), expected[0, 0].long().numpy())


def test_masks_are_pasted_as_mmdet_does():
    ops.install()
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    generator = torch.Generator().manual_seed(0)
    low = torch.rand(40, 2, generator=generator) * torch.tensor([90.0, 60.0])
    extent = torch.rand(40, 2, generator=generator) * 50
    extent[:3] = 0
    extent[3, 0] = 0  # a line
    boxes = torch.cat([low, (low + extent).minimum(torch.tensor([100.0, 70.0]))], 1)
    beyond = [[-5, -3, 20, 10], [90, 60, 130, 95], [99.7, 69.5, 100, 70], [10.5, 10.5, 10.5, 30]]
    boxes = torch.cat([boxes, torch.tensor(beyond)])
    masks = torch.rand(len(boxes), 28, 28, generator=generator)
    found = paste(masks, boxes, (70, 100), 0.5)
    for i in range(len(boxes)):
        patch, place = _do_paste_mask(masks[i : i + 1, None], boxes[i : i + 1], 70, 100)
        expected = torch.zeros(70, 100, dtype=torch.bool)
        expected[place] = patch[0] >= 0.5
        assert found[i].equal(expected), boxes[i]
    nowhere = torch.tensor([[150.0, 10, 170, 20], [-9, -9, -3, -3], [float('nan')] * 4])
    assert not paste(masks[:3], nowhere, (70, 100), 0.5).any()
    assert paste(masks[:0], boxes[:0], (70, 100), 0.5).shape == (0, 70, 100)


@pytest.mark.parametrize('reverse', [False, True])
def test_normalised_images_are_those_of_pytorch(reverse):
    image = np.ascontiguousarray(photo(45, 67).transpose(2, 0, 1))
    how = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], reverse=reverse)
    expected = Prepare(**how, divisor=32)(torch.from_numpy(image)[None])[0]
    np.testing.assert_array_equal(normalised(image, **how, divisor=32), expected.numpy())
