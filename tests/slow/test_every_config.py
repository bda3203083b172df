"""Every config exports whole, and its file scores what its checkpoint does, in each runtime."""

import json

import pytest
import torch

from effvim.config.reading import load_config
from effvim.datasets import synthetic
from tests.helpers.cli import run_command
from tests.helpers.exports import (
    config_of,
    listing,
    model_of,
    options_of,
    path_of,
    with_ground_truth,
)

SLIDE = [
    'model.test_cfg.mode=slide',
    '+model.test_cfg.crop_size=(64, 96)',
    '+model.test_cfg.stride=(48, 64)',
]
CASES = [pytest.param(name, [], [], id=name) for name in listing()]
CASES.append(pytest.param('semfpn_effvim_m1', SLIDE, ['--size', '128', '128'], id='sliding window'))


@pytest.mark.slow
@pytest.mark.parametrize('name, options, flags', CASES)
def test_a_file_scores_what_its_checkpoint_does(name, options, flags, tmp_path, capsys):
    segmentor = load_config(path_of(name)).default_scope == 'mmseg'
    classes = synthetic.ADE_CLASSES if segmentor else synthetic.CLASSES
    path, cfg = config_of(name, classes, options)
    model = model_of(cfg)
    draw = synthetic.draw_ade if segmentor else synthetic.draw_coco
    root = draw(tmp_path / 'drawn', num_train=1, num_val=4, size=128)
    if not segmentor:
        root = with_ground_truth(root, model, cfg.model.type, tmp_path)
    weights, file = tmp_path / 'weights.pth', tmp_path / 'model.onnx'
    meta = {'dataset_meta': {'classes': classes}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, weights)
    argv = ['--data-root', str(root), '--work-dir', str(tmp_path)]
    changes = ['--cfg-options', *options_of(name), *options]

    status = run_command(
        'export', [path, str(weights), *argv, '--out', str(file), *flags, *changes]
    )
    assert status == 0, capsys.readouterr().err

    def metrics(*given):
        out = tmp_path / 'metrics.json'
        assert run_command('test', [path, *given, *argv, '--out', str(out)]) == 0
        return json.loads(out.read_text())

    plain = metrics(str(weights), *changes)
    for given in ([file], [file, '--runtime', 'openvino']):
        exported = metrics(*map(str, given))
        print(given, {key: (value, exported[key]) for key, value in plain.items()})
        assert plain.keys() == exported.keys()
        if segmentor:
            assert exported['mIoU'] > 1
            assert exported['mIoU'] == pytest.approx(plain['mIoU'], abs=0.2)  # percent
            continue
        kinds = [name for name in plain if name.endswith('_mAP')]
        assert 'coco/bbox_mAP' in kinds
        assert ('coco/segm_mAP' in kinds) == ('segm' in cfg.test_evaluator.metric)
        for kind in kinds:
            assert plain[kind] > 0.1
            assert exported[kind] == pytest.approx(plain[kind], abs=2e-3), (given, kind)
