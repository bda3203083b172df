"""Mixed precision in evaluation: bfloat16 inside the networks, float32 everywhere else."""

import json

import pytest
import torch
from torch import nn

from effvim.engine import amp
from effvim.export import parity
from effvim.inference.predictor import Predictor
from tests.helpers.cli import run_command
from tests.helpers.runs import KINDS, call

pytestmark = pytest.mark.usefixtures('cpu_with_bfloat16')

MODELS = {'retinanet': 'RetinaNet', 'mask_rcnn': 'MaskRCNN', 'semfpn': 'EncoderDecoder'}


@pytest.mark.parametrize('kind', KINDS)
def test_networks_compute_in_bfloat16_and_return_float32(kind, run_of):
    run = run_of(kind)
    wide, narrow = (
        Predictor(run.config, run.checkpoint, fuse=False, device='cpu').network.model
        for _ in range(2)
    )
    amp.autocast_networks(narrow)
    seen = {}
    for name, module in narrow.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)):
            module.register_forward_hook(
                lambda _, given, out, name=name: seen.update({name: out.dtype})
            )
    image = torch.randint(0, 256, (3, 160, 1200), dtype=torch.uint8)
    (predicted,) = parity.predict(narrow, [image], MODELS[kind])
    assert set(seen.values()) == {torch.bfloat16}
    assert {name.split('.')[0] for name in seen} >= {'backbone', 'neck'} and len(seen) >= 20
    images = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        for a, b in zip(narrow.backbone(images), wide.backbone(images)):
            assert a.dtype == torch.float32
            assert 0 < (a - b).abs().mean() < 0.03 * b.abs().mean()
    if kind == 'semfpn':
        assert predicted.seg_logits.data.dtype == torch.float32
        return
    boxes = predicted.pred_instances.bboxes
    assert boxes.dtype == torch.float32 and boxes.max() > 600
    assert (boxes != boxes.bfloat16().float()).float().mean() > 0.3  # corners between its steps


@pytest.mark.parametrize('kind', KINDS)
def test_metrics_hardly_change(kind, run_of, tmp_path):
    run, numbers = run_of(kind), []
    for flags in ([], ['--amp'], ['--amp', '--fuse']):
        call(
            'test',
            run.config,
            run.checkpoint,
            *flags,
            '--work-dir',
            tmp_path,
            '--out',
            tmp_path / 'm.json',
        )
        numbers.append(json.loads((tmp_path / 'm.json').read_text()))
    for name in ('mIoU', 'aAcc') if kind == 'semfpn' else ('coco/bbox_AR@100',):
        wide = numbers[0][name]
        tolerance = 1 if kind == 'semfpn' else 0.5 * wide  # few objects are found
        assert wide > 0 and all(abs(n[name] - wide) < tolerance for n in numbers), name


def test_cpu_without_bfloat16(run_of, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('torch.cpu._is_avx512_bf16_supported', lambda: False)
    run = run_of('retinanet')
    assert run_command('test', [str(run.config), str(run.checkpoint), '--amp']) == 2
    assert '--amp needs' in capsys.readouterr().err
