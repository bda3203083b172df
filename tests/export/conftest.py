"""Models and their exported files."""

import contextlib
import io
from types import SimpleNamespace

import pytest
import torch

from effvim.datasets import synthetic
from tests.helpers.cli import run_command
from tests.helpers.exports import KINDS, config_of, model_of, options_of, with_ground_truth


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """Synthetic datasets in COCO's and in ADE20K's layout."""
    folder = tmp_path_factory.mktemp('data')
    return {
        False: synthetic.draw_coco(folder / 'coco', num_train=1, num_val=4, size=128),
        True: synthetic.draw_ade(folder / 'ade', num_train=1, num_val=4, size=128),
    }


@pytest.fixture(scope='module', params=KINDS)
def trained(request, roots, tmp_path_factory):
    """A checkpoint, and a command line without --out."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    segmentor = kind == 'EncoderDecoder'
    classes = synthetic.ADE_CLASSES if segmentor else synthetic.CLASSES
    path, cfg = config_of(KINDS[kind], classes)
    model = model_of(cfg)
    weights = folder / 'weights.pth'
    root = roots[True] if segmentor else with_ground_truth(roots[False], model, kind, folder)
    torch.save(
        {'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': classes}}}, weights
    )
    argv = [
        path,
        str(weights),
        '--data-root',
        str(root),
        '--work-dir',
        str(folder),
        '--cfg-options',
        *options_of(KINDS[kind]),
    ]
    return SimpleNamespace(
        kind=kind,
        config=path,
        classes=classes,
        model=model,
        weights=weights,
        argv=argv,
        folder=folder,
        root=root,
    )


@pytest.fixture(scope='module')
def made(trained):
    """A checkpoint and its exported file, which takes images of any size."""
    file = trained.folder / 'model.onnx'
    assert run_command('export', [*trained.argv, '--out', str(file)]) == 0
    return SimpleNamespace(file=file, **vars(trained))


@pytest.fixture(scope='module')
def in_ncnn(trained):
    """The same checkpoint as files of ncnn, for images of 128 × 128 pixels."""
    file = trained.folder / 'model.ncnn.param'
    argv = [*trained.argv, '--out', str(file), '--size', '128', '128']
    assert run_command('export', argv) == 0
    return file


@pytest.fixture(scope='module')
def in_tensorrt(trained):
    """The same checkpoint as a file for TensorRT, and what its export printed."""
    file = trained.folder / 'for_tensorrt/model.trt.onnx'
    file.parent.mkdir()
    argv = [*trained.argv, '--out', str(file), '--size', '128', '128']
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run_command('export', argv) == 0
    images = 'images/validation' if trained.kind == 'EncoderDecoder' else 'val2017'
    return SimpleNamespace(file=file, printed=printed.getvalue(), images=images)


@pytest.fixture(scope='module')
def in_openvino(made):
    """The same checkpoint as files of OpenVINO."""
    file = made.folder / 'model.xml'
    assert run_command('export', [*made.argv, '--out', str(file)]) == 0
    assert file.with_suffix('.bin').is_file()
    return file


@pytest.fixture(scope='module')
def segmentor(roots, tmp_path_factory):
    """The cheapest model to export, and a command line without --out."""
    path, cfg = config_of(KINDS['EncoderDecoder'], synthetic.ADE_CLASSES)
    model = model_of(cfg)
    folder = tmp_path_factory.mktemp('segmentor')
    torch.save(
        {
            'state_dict': model.state_dict(),
            'meta': {'dataset_meta': {'classes': synthetic.ADE_CLASSES}},
        },
        folder / 'w.pth',
    )
    return model, [
        path,
        str(folder / 'w.pth'),
        '--data-root',
        str(roots[True]),
        '--work-dir',
        str(folder),
        '--cfg-options',
        *options_of(KINDS['EncoderDecoder']),
    ]


@pytest.fixture
def semfpn(segmentor, tmp_path):
    """As `segmentor`, with --out in the test's own directory."""
    return segmentor[0], [*segmentor[1], '--out', str(tmp_path / 'model.onnx')]
