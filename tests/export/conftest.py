"""Models and their exported files."""

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
def made(request, roots, tmp_path_factory):
    """A checkpoint and its exported file, which takes images of any size."""
    kind, folder = request.param, tmp_path_factory.mktemp(request.param)
    segmentor = kind == 'EncoderDecoder'
    classes = synthetic.ADE_CLASSES if segmentor else synthetic.CLASSES
    path, cfg = config_of(kind, classes)
    model = model_of(kind, cfg)
    weights, file = folder / 'weights.pth', folder / 'model.onnx'
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
        *options_of(kind),
    ]
    assert run_command('export', [*argv, '--out', str(file)]) == 0
    return SimpleNamespace(
        kind=kind,
        config=path,
        classes=classes,
        model=model,
        weights=weights,
        file=file,
        argv=argv,
        folder=folder,
        root=root,
    )


@pytest.fixture(scope='module')
def segmentor(roots, tmp_path_factory):
    """The cheapest model to export, and a command line without --out."""
    path, cfg = config_of('EncoderDecoder', synthetic.ADE_CLASSES)
    model = model_of('EncoderDecoder', cfg)
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
        *options_of('EncoderDecoder'),
    ]


@pytest.fixture
def semfpn(segmentor, tmp_path):
    """As `segmentor`, with --out in the test's own directory."""
    return segmentor[0], [*segmentor[1], '--out', str(tmp_path / 'model.onnx')]
