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
