"""The scripts of examples/ resize images as the configs do, and print what a predictor finds."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from effvim.config.reading import import_plugins, load_config
from effvim.export.metadata import resize_rules
from effvim.images import read_image
from effvim.inference.exported_network import prepare_image
from effvim.inference.predictor import Predictor
from tests.helpers.cli import run_command
from tests.helpers.exports import example_script, listing, path_of, pipeline_of
from tests.helpers.paths import ROOT

RUNTIMES = ('onnxruntime', 'openvino')
needs_openvino = pytest.mark.skipif(not find_spec('openvino'), reason='needs the extra openvino')
of_two_kinds = pytest.mark.parametrize('trained', ['RetinaNet', 'EncoderDecoder'], indirect=True)


def script(runtime):
    pytest.importorskip(runtime)
    return example_script(f'detect_{runtime}')


@pytest.mark.parametrize('runtime', RUNTIMES)
@pytest.mark.parametrize('name', listing())
def test_images_are_those_of_the_pipeline(name, runtime):
    cfg = load_config(path_of(name))
    import_plugins(cfg)
    pipeline, rules = pipeline_of(cfg), resize_rules(cfg)
    rng = np.random.default_rng(0)
    for height, width in ((48, 64), (300, 210), (1100, 1530)):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        photo = Image.fromarray(coarse).resize((width, height))
        sample = pipeline(dict(img=np.asarray(photo)[..., ::-1].copy(), img_id=0))
        expected = sample['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
        image, (across, down) = script(runtime).resized(photo, rules)
        assert image.shape == expected.shape
        # segmentors resize twice
        assert np.abs(image.astype(int) - expected).mean() < (2 if rules['multiple'] else 0.5)
        if not rules['multiple']:
            scale = sample['data_samples'].metainfo['scale_factor']
            assert (across, down) == pytest.approx(scale, rel=1e-3)


PREPROCESSOR = dict(mean=[120, 110, 100], std=[1, 1, 1], reverse=True, divisor=32)
RULES = [
    dict(scale=None, keep_ratio=True, multiple=None, pad=None),
    dict(scale=None, keep_ratio=True, multiple=32, pad=None),
    dict(scale=[320, 256], keep_ratio=False, multiple=None, pad=None),
    dict(scale=[320, 256], keep_ratio=True, multiple=None, pad=None),
    dict(scale=[700, 500], keep_ratio=True, multiple=32, pad=None),
    dict(scale=[320, 256], keep_ratio=True, multiple=None, pad=dict(size=[320, 256], value=114)),
]


@pytest.mark.parametrize('rules', RULES, ids=str)
@pytest.mark.parametrize('size', [(512, 512), (300, 352)])
def test_sizes_are_those_of_the_toolkit(rules, size):
    """Of images that are smaller or larger than a file of one size, in every script."""
    about = dict(size=size, resize=rules, settings={'model.data_preprocessor': PREPROCESSOR})
    rng, tolerance = np.random.default_rng(0), 4 if rules['multiple'] else 1  # resized twice
    for width, height in ((256, 200), (200, 256), (900, 700), (640, 480), (37, 1000)):
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        photo = Image.fromarray(coarse).resize((width, height))
        expected, place = prepare_image(np.asarray(photo), rules, size)
        for runtime in filter(find_spec, RUNTIMES):
            image, scale = script(runtime).resized(photo, rules, size)
            assert image.shape == (*expected.shape[1:], 3)
            if not rules['multiple']:
                assert scale == pytest.approx(place.scale)
            shown = expected.transpose(1, 2, 0)[..., ::-1]
            assert np.abs(image.astype(int) - shown).mean() < tolerance
        image, scale = example_script('fixed_size').prepared(photo, about)
        if not rules['multiple']:
            assert scale == pytest.approx(place.scale)
        given = image.transpose(1, 2, 0)[: shown.shape[0], : shown.shape[1]]
        assert np.abs(given.astype(int) - shown).mean() < tolerance


@pytest.mark.parametrize('name', ['detect_onnxruntime', 'detect_openvino', 'fixed_size'])
def test_photos_are_read_as_the_toolkit_reads_them(name, tmp_path):
    if name.startswith('detect') and not find_spec(name.removeprefix('detect_')):
        pytest.skip('not installed')
    rng = np.random.default_rng(0)
    values = rng.integers(0, 65536, (20, 30), np.uint16)
    Image.fromarray(values).save(tmp_path / 'sixteen.png')
    Image.fromarray(rng.integers(0, 256, (20, 30, 4), np.uint8)).save(tmp_path / 'rgba.png')
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new('L', (30, 20), 90).save(tmp_path / 'turned.png', exif=turned)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(example_script(name).opened(path), read_image(path))


def run_script(runtime, file, image, folder):
    """Run a script without this project, from another directory."""
    return subprocess.run(
        [sys.executable, ROOT / f'examples/detect_{runtime}.py', file, image, '--score-thr', '0.4'],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != 'PYTHONPATH'},
        capture_output=True,
        text=True,
    )


def assert_printed(result, prediction):
    """A script printed the fractions or the objects of a prediction."""
    assert result.returncode == 0, result.stderr
    printed = [line.split(': ') for line in result.stdout.splitlines()]
    if prediction.label_map is not None:
        labels, counts = np.unique(prediction.label_map, return_counts=True)
        shares = {prediction.classes[i]: n / counts.sum() for i, n in zip(labels, counts)}
        given = {name: float(share.rstrip('%')) / 100 for name, share in printed}
        assert given == pytest.approx(shares, abs=0.02)
        return
    kept = prediction.above(0.4)
    assert len(printed) == len(kept.boxes) >= 5
    assert [name for name, _ in printed] == [kept.classes[label] for label in kept.labels]
    numbers = np.array([line.split() for _, line in printed], float)
    np.testing.assert_allclose(numbers[:, 0], kept.scores, atol=0.01)
    np.testing.assert_allclose(numbers[:, 1:], kept.boxes, atol=0.1)


def photo_of(trained, size, folder):
    """One of the dataset's images in a width and height, which all decoders read alike."""
    images = 'images/validation' if trained.kind == 'EncoderDecoder' else 'val2017'
    path = folder / f'{size[0]}x{size[1]}.png'
    with Image.open(min((trained.root / images).iterdir())) as image:
        image.convert('RGB').resize(size).save(path)
    return path


@of_two_kinds
def test_they_print_what_a_predictor_finds(made, tmp_path):
    photo = photo_of(made, (128, 96), tmp_path)
    assert_printed(
        run_script('onnxruntime', made.file, photo, tmp_path),
        Predictor(made.config, made.file)(photo),
    )


@needs_openvino
@of_two_kinds
def test_they_print_what_a_predictor_finds_in_openvino(trained, in_openvino, tmp_path):
    photo = photo_of(trained, (128, 96), tmp_path)
    assert_printed(
        run_script('openvino', in_openvino, photo, tmp_path),
        Predictor(trained.config, in_openvino)(photo),
    )


@of_two_kinds
def test_files_of_one_size(trained, tmp_path):
    """The padding is not counted; a photo that would not fit is made smaller."""
    file = tmp_path / 'model.onnx'
    argv = [*trained.argv, '--out', str(file), '--size', '96', '160']
    assert run_command('export', argv) == 0
    for size in ((128, 96), (96, 128), (400, 100)):
        photo = photo_of(trained, size, tmp_path)
        for runtime in filter(find_spec, RUNTIMES):
            assert_printed(run_script(runtime, file, photo, tmp_path), Predictor(file)(photo))
