"""Files for images of one size: written, run in their runtime, used by commands and examples."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from effvim.checkpoints import exported
from effvim.checkpoints.kinds import weights_of
from effvim.export import keeping, ncnn_file
from effvim.export.decoded_graph import WholeImage
from effvim.inference.predictor import Predictor
from tests.helpers.cli import run_command
from tests.helpers.exports import KINDS, options_of
from tests.helpers.paths import ROOT

SUFFIXES = {'ncnn': '.ncnn.param', 'litert': '.tflite', 'executorch': '.pte'}
PACKAGES = {  # that write and run a file
    'ncnn': ('ncnn', 'pnnx'),
    'litert': ('litert_torch', 'ai_edge_litert'),
    'executorch': ('executorch',),
}
SIZE = ['--size', '128', '128']
of_two_kinds = pytest.mark.parametrize('trained', ['RTMDet', 'EncoderDecoder'], indirect=True)
of_a_segmentor = pytest.mark.parametrize('trained', ['EncoderDecoder'], indirect=True)


def images_of(trained):
    folder = 'images/validation' if trained.kind == 'EncoderDecoder' else 'val2017'
    return sorted((trained.root / folder).iterdir())


def example_of(runtime, file, image, folder):
    """What an example prints, run without this project from another directory."""
    result = subprocess.run(
        [sys.executable, ROOT / f'examples/detect_{runtime}.py', file, image, '--score-thr', '0.4'],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != 'PYTHONPATH'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return [line.split(': ') for line in result.stdout.splitlines()]


@of_two_kinds
@pytest.mark.parametrize('runtime', SUFFIXES)
def test_files_are_what_a_predictor_and_an_example_run(trained, runtime, tmp_path, capfd):
    if not all(map(find_spec, PACKAGES[runtime])):
        pytest.skip(f'needs {" and ".join(PACKAGES[runtime])}')
    file = tmp_path / f'model{SUFFIXES[runtime]}'
    assert run_command('export', [*trained.argv, '--out', str(file), *SIZE]) == 0
    out, err = capfd.readouterr()
    assert 'compared with PyTorch on 4 images' in out and err == ''
    about = exported.description(str(file))
    assert about['classes'] == list(trained.classes) and about['size'] == [128, 128]
    names = {f'{file.name}.json', file.name, weights_of(str(file)).name}
    assert {path.name for path in tmp_path.iterdir()} == names

    image = tmp_path / 'photo.png'  # which all decoders read alike, at a size that is kept
    height = 128 if trained.kind == 'EncoderDecoder' else 96  # a segmentor notices the padding
    Image.open(images_of(trained)[0]).convert('RGB').resize((128, height)).save(image)
    options = options_of(KINDS[trained.kind])
    expected = Predictor(trained.config, trained.weights, options=options)(image)
    predicted = Predictor(file)(image)
    printed = example_of(runtime, file, image, tmp_path)
    if trained.kind == 'EncoderDecoder':
        assert (predicted.label_map == expected.label_map).mean() > 0.99
        labels, counts = np.unique(predicted.label_map, return_counts=True)
        shares = {predicted.classes[i]: n / counts.sum() for i, n in zip(labels, counts)}
        given = {name: float(share.rstrip('%')) / 100 for name, share in printed}
        assert given == pytest.approx(shares, abs=0.02)
        return
    assert len(predicted.boxes) == len(expected.boxes) >= 5
    np.testing.assert_allclose(predicted.scores, expected.scores, atol=1e-2)
    kept = predicted.scores >= 0.4
    assert len(printed) == kept.sum() >= 5
    assert [name for name, _ in printed] == [predicted.classes[i] for i in predicted.labels[kept]]
    boxes = np.array([line.split()[1:] for _, line in printed], float)
    np.testing.assert_allclose(boxes, predicted.boxes[kept], atol=0.1)


@of_a_segmentor
def test_metrics_of_a_file(trained, in_ncnn, tmp_path):
    pytest.importorskip('ncnn')
    metrics = []
    for argv in (trained.argv, [trained.config, str(in_ncnn), '--data-root', str(trained.root)]):
        where = ['--out', str(tmp_path / 'm.json')]
        where += [] if '--work-dir' in argv else ['--work-dir', str(tmp_path)]
        assert run_command('test', [*argv[:2], *where, *argv[2:]]) == 0
        metrics.append(json.loads((tmp_path / 'm.json').read_text())['mIoU'])
    assert metrics[1] == pytest.approx(metrics[0], abs=0.2) and metrics[0] > 1  # percent


@of_a_segmentor
def test_files_that_do_not_belong_together(trained, in_ncnn, tmp_path, capsys):
    pytest.importorskip('ncnn')
    for name in (in_ncnn.name, f'{in_ncnn.name}.json', 'model.ncnn.bin'):
        shutil.copy(in_ncnn.with_name(name), tmp_path / name)
    copied, weights = tmp_path / in_ncnn.name, tmp_path / 'model.ncnn.bin'
    image = str(images_of(trained)[0])

    def complaint():
        argv = [str(copied), image, '--out', str(tmp_path / 'results')]
        assert run_command('infer', argv) == 2
        err = capsys.readouterr().err
        assert err.count('\n') == 1
        return err

    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b'\0\0\1\1')
    assert 'does not hold the weights' in complaint()
    weights.unlink()
    assert 'model.ncnn.bin' in complaint()
    weights.write_bytes(content)
    (tmp_path / f'{in_ncnn.name}.json').write_text('[')
    assert '.json cannot be read' in complaint()
    (tmp_path / f'{in_ncnn.name}.json').unlink()
    assert 'needs its metadata' in complaint()


@of_a_segmentor
def test_a_package_of_core_ml(trained, tmp_path, capfd):
    ct = pytest.importorskip('coremltools')
    file = tmp_path / 'model.mlpackage'
    for _ in range(2):  # the second replaces the first
        assert run_command('export', [*trained.argv, '--out', str(file), *SIZE]) == 0
        out, err = capfd.readouterr()
        assert 'not verified: Core ML runs on a Mac only' in out and err == ''
        assert 'before its conversion, compared with PyTorch on 4 images' in out
    assert list(tmp_path.iterdir()) == [file]
    spec = ct.utils.load_spec(str(file))
    metadata = dict(spec.description.metadata.userDefined)
    assert json.loads(metadata['classes']) == list(trained.classes)
    (given,), (made,) = spec.description.input, spec.description.output
    assert given.name == 'images' and given.type.imageType.width == 128
    assert made.name == 'label_map' and list(made.type.multiArrayType.shape) == [1, 128, 128]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(
    'change, words',
    [
        (['--size', '128', '128', '--int8', '.'], ['--int8', 'drop it']),
        (['--size', '32', '128'], ['at least 64']),
        (['--cfg-options', 'model.test_cfg.mode=slide'], ['slide']),
        ([], ['--size H W']),
    ],
    ids=str,
)
def test_what_these_formats_do_not_take(kind, change, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ncnn_file, 'require', lambda: None)
    file = tmp_path / 'w.pth'
    torch.save({'state_dict': {'backbone.a': torch.zeros(1)}, 'meta': {}}, file)
    config = str(ROOT / f'configs/{KINDS[kind]}.py')
    if 'slide' in str(change) and kind != 'EncoderDecoder':
        pytest.skip('segmentors slide')
    if not change and kind == 'RTMDet':
        pytest.skip('its config pads all images to one size')
    if not change and kind == 'MaskRCNN':
        words = ['not MaskRCNN', '*.onnx or *.xml']
    out = tmp_path / 'm.ncnn.param'
    assert run_command('export', [config, str(file), '--out', str(out), *change]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words) and err.count('\n') == 1, err
    assert not out.exists()


@of_a_segmentor
def test_a_graph_that_a_converter_does_not_know(trained, tmp_path, monkeypatch, capsys):
    """The message names the operator."""
    pytest.importorskip('pnnx')
    monkeypatch.setattr(WholeImage, 'forward', lambda self, x: torch.special.bessel_j0(x))
    argv = [*trained.argv, '--out', str(tmp_path / 'm.ncnn.param'), *SIZE]
    assert run_command('export', argv) == 2
    err = capsys.readouterr().err
    assert 'bessel_j0' in err and err.count('\n') == 1 and not list(tmp_path.iterdir())


@of_a_segmentor
def test_a_full_disk(trained, in_ncnn, tmp_path, monkeypatch, capsys):
    def full(contents):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(keeping, 'write_all_atomic', full)
    argv = [*trained.argv, '--out', str(tmp_path / 'm.ncnn.param'), *SIZE]
    assert run_command('export', argv) == 2
    assert not list(tmp_path.iterdir())
    assert 'No space left on device' in capsys.readouterr().err


@pytest.mark.parametrize(
    'suffix, package, words',
    [
        ('.ncnn.param', 'pnnx', '.[ncnn]'),
        ('.mlpackage', 'coremltools', '.[coreml]'),
        ('.tflite', 'litert_torch', 'make export-env'),
        ('.pte', 'executorch', 'make export-env'),
    ],
)
def test_a_missing_package(suffix, package, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    config = str(ROOT / 'configs/rtmdet_effvim_m1.py')
    weights = tmp_path / 'w.pth'
    torch.save({'state_dict': {'backbone.a': torch.zeros(1)}, 'meta': {}}, weights)
    argv = [config, str(weights), '--out', str(tmp_path / f'm{suffix}')]
    assert run_command('export', argv) == 2
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1


def test_an_exported_file_is_no_checkpoint(tmp_path, capsys):
    (tmp_path / 'm.onnx').touch()
    argv = [str(tmp_path / 'm.onnx'), '--out', str(tmp_path / 'm.xml')]
    assert run_command('export', argv) == 2
    err = capsys.readouterr().err
    assert 'm.onnx is an exported file' in err and err.count('\n') == 1
