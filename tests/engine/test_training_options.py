"""Accumulation, averaged weights, mixed precision and the like change what they should, only that.

Small runs of the commands on synthetic images, against plain torch and NumPy.
"""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from PIL import Image

from backbone import EfficientViM, UserError
from effvim.checkpoints import checkpoint
from effvim.config import precision, presets
from effvim.config.reading import load_config
from effvim.datasets import synthetic
from effvim.engine import summary
from effvim.engine.testing import use_tta
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT
from tests.helpers.training import (
    BATCHES,
    MASK_RCNN,
    RATE,
    RETINANET,
    SEMFPN,
    Recorder,
    mistake,
    prepared,
    run,
    training_argv,
)


def assert_same(first, second):
    """Equal tensors by name."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, msg=name)


def moments(content):
    return {
        f'{i}.{name}': value
        for i, state in content['optimizer']['state'].items()
        for name, value in state.items()
    }


def test_accumulated_gradients_are_their_mean(root, tmp_path):
    """Five batches of one image in groups of two: three steps, against plain torch."""
    flags = dict(more=['optim_wrapper.clip_grad=None', 'optim_wrapper.accumulative_counts=2'])
    running = prepared(root, tmp_path, **flags)
    reference = prepared(root, tmp_path, **flags)
    running._init_model_weights()
    reference.model.load_state_dict(running.model.state_dict())
    running._init_model_weights = lambda: None
    running.train()

    model = reference.model.train()
    optimiser = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.999), weight_decay=0.05)
    batches = list(reference.train_dataloader)
    assert len(batches) == BATCHES
    for group in (batches[0:2], batches[2:4], batches[4:5]):
        optimiser.zero_grad()
        for batch in group:
            losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
            (model.parse_losses(losses)[0] / len(group)).backward()
        optimiser.step()
    trained = dict(running.model.named_parameters())
    steps = {int(s['step']) for s in running.optim_wrapper.state_dict()['state'].values()}
    assert steps == {3}
    for name, value in model.named_parameters():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-3 * RATE, msg=name)


def test_rate_scales_with_the_total_batch_size(root, tmp_path):
    """The rate is meant for 16 images."""
    for counts, expected in ((1, RATE / 16), (4, RATE / 4)):
        running = prepared(
            root,
            tmp_path / str(counts),
            '--auto-scale-lr',
            more=[f'optim_wrapper.accumulative_counts={counts}'],
        )
        running.register_hook(recorder := Recorder())
        running.train()
        assert recorder.rates == [pytest.approx(expected)] * BATCHES


def test_average_is_what_the_formula_says(averaged):
    _, content, recorder = averaged
    assert len(recorder.weights) == BATCHES
    for name, value in content['state_dict'].items():
        if not value.is_floating_point():
            continue
        average = recorder.weights[0][name].double()
        for step, weights in enumerate(recorder.weights[1:], 1):
            share = max(0.0002, 10 / (10 + step))
            average = (1 - share) * average + share * weights[name].double()
        torch.testing.assert_close(value.double(), average, rtol=1e-5, atol=1e-6, msg=name)


def test_average_is_validated_and_training_continues_raw(averaged):
    _, content, recorder = averaged
    assert recorder.measured
    for measured in recorder.measured:
        assert_same(measured, content['state_dict'])
    raw = {
        name.removeprefix('module.'): value
        for name, value in content['ema_state_dict'].items()
        if name != 'steps'
    }
    assert_same(raw, recorder.weights[-1])
    assert not torch.equal(
        raw['backbone.patch_embed.conv.0.conv.weight'],
        content['state_dict']['backbone.patch_embed.conv.0.conv.weight'],
    )


def test_averaging_leaves_training_as_it_is(averaged, plain):
    content, folder = averaged[1], plain[0]
    without = checkpoint.read(folder / 'epoch_1.pth')
    raw = {
        name.removeprefix('module.'): value
        for name, value in content['ema_state_dict'].items()
        if name != 'steps'
    }
    assert_same(raw, without['state_dict'])
    assert_same(moments(content), moments(without))


def detections(folder, weights, *flags, config=RETINANET):
    """The detections of `effvim test`: COCO's result list."""
    assert (
        run_command(
            'test',
            [
                config,
                str(weights),
                '--work-dir',
                str(folder),
                *flags,
                '--cfg-options',
                f'+test_evaluator.outfile_prefix={folder}/detections',
            ],
        )
        == 0
    )
    return json.loads((folder / 'detections.bbox.json').read_text())


def test_tools_take_the_average_or_the_raw_weights(averaged, plain, tmp_path):
    folder, _, _ = averaged
    average = detections(tmp_path, folder / 'epoch_1.pth')
    assert len(average) > 10
    assert average == json.loads((folder / 'validated.bbox.json').read_text())
    raw = detections(tmp_path, folder / 'epoch_1.pth', '--raw')
    assert raw != average and raw == detections(tmp_path, plain[0] / 'epoch_1.pth')


@pytest.mark.parametrize('flags', [[], ['--ema'], ['--amp']], ids=str)
def test_resumed_equals_uninterrupted(flags, root, plain, tmp_path, monkeypatch):
    """Weights, their average and the optimiser after two epochs; the flag need not be repeated."""
    monkeypatch.setattr('torch.cpu._is_avx512_bf16_supported', lambda: True)
    whole = (
        plain[1]
        if not flags
        else run(root, tmp_path / 'whole', *flags, more=['train_cfg.max_epochs=2'])
    )
    run(root, tmp_path / 'parts', *flags)
    resumed = run(root, tmp_path / 'parts', '--resume', more=['train_cfg.max_epochs=2'])
    assert resumed['meta']['iter'] == 2 * BATCHES
    for part in ('state_dict', 'ema_state_dict'):
        assert (part in whole) == (part in resumed)
        assert_same(whole.get(part, {}), resumed.get(part, {}))
    assert_same(moments(whole), moments(resumed))


@pytest.mark.parametrize('path', [RETINANET, MASK_RCNN], ids=['retinanet', 'mask_rcnn'])
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(
    path, root, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(summary, 'amp_is_faster', lambda: False)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('torch.cpu._is_avx512_bf16_supported', lambda: True)
    small = ['default_hooks.logger.interval=1']
    small += (
        []
        if path == RETINANET
        else [
            'model.train_cfg.rcnn.sampler.num=16',
            'model.train_cfg.rpn_proposal.max_per_img=20',
            'model.test_cfg.rpn.max_per_img=20',
        ]
    )
    losses = {}
    for flags in ([], ['--amp']):
        running = prepared(root, tmp_path / str(len(flags)), *flags, config=path, more=small)
        summary.before_training(running)
        assert (precision.SLOWER in capsys.readouterr().err) == bool(flags)
        dtypes = {True: set(), False: set()}
        for name in ('backbone.stages.1.blocks.0.ffn.fc1.conv', 'neck.lateral_convs.0'):
            layer = running.model.get_submodule(name)
            layer.register_forward_hook(
                lambda m, _, out, seen=dtypes: seen[m.training].add(out.dtype)
            )
        running.train()
        computed = torch.bfloat16 if flags else torch.float32
        assert dtypes == {True: {computed}, False: {torch.float32}}
        content = checkpoint.read(tmp_path / str(len(flags)) / 'epoch_1.pth')
        assert checkpoint.describe(content)['amp'] == bool(flags)
        values = [*content['state_dict'].values(), *moments(content).values()]
        assert {v.dtype for v in values if v.is_floating_point()} == {torch.float32}
        log = next((tmp_path / str(len(flags))).glob('*/vis_data/scalars.json')).read_text()
        losses[bool(flags)] = next(r for r in map(json.loads, log.splitlines()) if 'loss' in r)
    # which RoIs are picked depends on the last digits
    assert losses[True]['loss'] == pytest.approx(losses[False]['loss'], rel=0.1)
    assert losses[True]['loss'] != losses[False]['loss']
    assert losses[True]['lr'] == losses[False]['lr']


def test_gradient_checkpointing_is_one_key_and_changes_no_gradient(root, tmp_path):
    gradients = []
    for with_cp in (False, True):
        running = prepared(root, tmp_path, more=[f'model.backbone.with_cp={with_cp}'])
        model = running.model.train()
        assert all(stage.with_cp == with_cp for stage in model.backbone.stages)
        batch = next(iter(running.train_dataloader))
        losses = model(**model.data_preprocessor(batch, training=True), mode='loss')
        model.parse_losses(losses)[0].backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
        gradients[-1].update({n: b for n, b in model.named_buffers() if 'running' in n})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').glob('*.py')), ids=lambda p: p.stem)
def test_every_config_has_the_keys(path):
    cfg = load_config(str(path))
    assert cfg.model.backbone.with_cp is False and cfg.optim_wrapper.accumulative_counts == 1


@pytest.mark.parametrize(
    'path',
    [*sorted((ROOT / 'configs').glob('*.py')), *sorted((ROOT / 'configs/gallery').glob('*.py'))],
    ids=lambda p: p.stem,
)
def test_every_config_is_augmented_in_tests_or_says_why_not(path):
    cfg = load_config(str(path))
    reason = {'MaskRCNN': 'not masks', 'DeformableDETR': 'no tta_model'}.get(cfg.model.type)
    if 'rtmdet_ins' in path.stem:
        reason = 'not masks'
    if reason:
        with pytest.raises(UserError, match=reason):
            use_tta(cfg, str(path))
    else:
        use_tta(cfg, str(path))
        assert cfg.model.type in ('DetTTAModel', 'SegTTAModel')


# Of M1 (two blocks a stage) at rate 1 and decay 1/2.
M1_RATES = {
    'patch_embed.': 1 / 128,
    'stages.0.blocks.0.': 1 / 64,
    'stages.0.blocks.1.': 1 / 32,
    'stages.0.downsample.': 1 / 32,
    'stages.1.blocks.0.': 1 / 16,
    'stages.1.blocks.1.': 1 / 8,
    'stages.1.downsample.': 1 / 8,
    'stages.2.blocks.0.': 1 / 4,
    'stages.2.blocks.1.': 1 / 2,
}


def wrapper_of(path, paramwise, constructor='EffViMLayerDecay', lr=1.0, **backbone):
    """The built model and its optimiser."""
    cfg = Config.fromfile(path)  # imports its plugin
    scope = cfg.default_scope
    init_default_scope(scope)
    from mmdet.registry import MODELS as DETECTORS
    from mmseg.registry import MODELS as SEGMENTORS

    cfg.model.backbone.update(backbone)
    model = (DETECTORS if scope == 'mmdet' else SEGMENTORS).build(cfg.model)
    cfg.optim_wrapper.update(constructor=constructor, paramwise_cfg=paramwise)
    cfg.optim_wrapper.optimizer.lr = lr
    return model, build_optim_wrapper(model, cfg.optim_wrapper)


@pytest.mark.parametrize('path', [RETINANET, SEMFPN], ids=['retinanet', 'semfpn'])
def test_layer_wise_rates(path):
    """Also with the other keys of mmengine's constructor: no decay on norms, slower fine convs."""
    model, wrapper = wrapper_of(
        path, dict(decay_rate=0.5, norm_decay_mult=0.0, custom_keys={'neck': dict(lr_mult=0.1)})
    )
    groups = {p: group for group in wrapper.optimizer.param_groups for p in group['params']}
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert set(groups) == set(trained.values())
    full = wrapper.optimizer.defaults['weight_decay']
    kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.LayerNorm)
    norms = {p for m in model.modules() if isinstance(m, kinds) for p in m.parameters()}
    for name, parameter in trained.items():
        rates = [rate for prefix, rate in M1_RATES.items() if name.startswith(f'backbone.{prefix}')]
        rates = rates or [0.1 if name.startswith('neck.') else 1.0]
        assert [groups[parameter]['lr']] == rates, name
        if not name.startswith('neck.'):
            assert groups[parameter]['weight_decay'] == (0 if parameter in norms else full), name


def test_layer_wise_rates_of_m4_and_of_frozen_stages():
    path = RETINANET.replace('m1', 'm4')
    for frozen in (-1, 1):
        model, wrapper = wrapper_of(path, dict(decay_rate=0.9), frozen_stages=frozen)
        groups = wrapper.optimizer.param_groups
        rates = {p: group['lr'] for group in groups for p in group['params']}
        named = {n: rates.get(p) for n, p in model.named_parameters()}
        # 3 + 4 + 2 blocks
        for name, power in {
            'patch_embed.conv.0.conv': 10,
            'stages.0.blocks.2.ffn.fc1.conv': 7,
            'stages.0.downsample.dwconv1.conv': 7,
            'stages.1.blocks.0.norm': 6,
            'stages.2.blocks.1.dwconv1.norm': 1,
        }.items():
            expected = None if frozen == 1 and power >= 7 else pytest.approx(0.9**power)
            assert named[f'backbone.{name}.weight'] == expected, name


@pytest.mark.parametrize(
    'paramwise', [{}, dict(decay_rate=0), dict(decay_rate=1.5), dict(decay_rate='0.9')], ids=str
)
def test_layer_wise_rates_need_a_rate(paramwise):
    with pytest.raises(UserError, match='decay_rate'):
        wrapper_of(RETINANET, paramwise)


def test_layer_wise_rates_know_every_parameter():
    class More(EfficientViM):
        def __init__(self):
            super().__init__('m1')
            self.prompt = torch.nn.Parameter(torch.zeros(3))

    wrapper = dict(
        type='OptimWrapper',
        constructor='EffViMLayerDecay',
        optimizer=dict(type='AdamW', lr=1.0),
        paramwise_cfg=dict(decay_rate=0.5),
    )
    model = torch.nn.Module()
    model.backbone = More()
    with pytest.raises(UserError, match='backbone.prompt'):
        build_optim_wrapper(model, wrapper)
    model.backbone = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match='Linear'):
        build_optim_wrapper(model, wrapper)


def test_weight_decay_is_printed(root, tmp_path, capsys):
    running = prepared(root, tmp_path)
    trained = {n: p for n, p in running.model.named_parameters() if p.requires_grad}
    total = sum(p.numel() for p in trained.values())
    assert total < sum(p.numel() for p in running.model.parameters())  # A is not trained
    capsys.readouterr()
    running.train()
    out = capsys.readouterr()
    assert f'weight decay 0.05 on all {total:,} trained parameters\n' in out.out

    alphas = sum(p.numel() for n, p in trained.items() if n.endswith('alpha'))
    run(
        root, tmp_path / 'b', more=['+optim_wrapper.paramwise_cfg.custom_keys.alpha.decay_mult=0.0']
    )
    captured = capsys.readouterr()
    assert (
        f'weight decay 0.05 on {total - alphas:,} of {total:,} trained parameters; 0 on '
        f'{alphas:,}: backbone.stages.*.blocks.*.alpha\n'
    ) in captured.out
    assert 'requires_grad' not in captured.out + captured.err


@pytest.mark.parametrize(
    'more, words',
    [
        (
            ['+optim_wrapper.paramwise_cfg.custom_keys.absolute_pos_embed.decay_mult=0.0'],
            ['absolute_pos_embed', 'no trained parameter'],
        ),
        # what is never trained
        (['+optim_wrapper.paramwise_cfg.custom_keys.mixer_A.lr_mult=0.1'], ['mixer_A', 'mixer.']),
        (
            ['+optim_wrapper.paramwise_cfg.norm_decay_mul=0.0'],
            ['norm_decay_mul', 'norm_decay_mult'],
        ),
        (['+optim_wrapper.paramwise_cfg.decay_rate=0.9'], ['decay_rate', 'Default']),
        (['+optim_wrapper.constructor=EffViMLayerDecay'], ['decay_rate']),
    ],
)
def test_keys_that_would_do_nothing(more, words, root, tmp_path, capsys):
    message = mistake(capsys, 'train', training_argv(root, tmp_path, more=more))
    assert all(word in message for word in words), message


def test_averaged_twice(root, tmp_path, capsys):
    path = tmp_path / 'own.py'
    path.write_text(f"_base_ = '{RETINANET}'\ncustom_hooks = [dict(type='EMAHook')]\n")
    message = mistake(capsys, 'train', training_argv(root, tmp_path, '--ema', config=str(path)))
    assert '--ema' in message and 'EMAHook' in message


def test_average_and_flags_must_agree(averaged, plain, root, tmp_path, capsys):
    with_average, without = averaged[0] / 'epoch_1.pth', plain[0] / 'epoch_1.pth'
    assert '--ema' in mistake(
        capsys,
        'train',
        training_argv(
            root, tmp_path, '--ema', '--resume', without, more=['train_cfg.max_epochs=9']
        ),
    )
    assert '--raw' in mistake(capsys, 'test', [RETINANET, without, '--raw'])
    for path, flags in ((with_average, []), (without, ['--ema'])):
        content = checkpoint.read(path)
        content['meta'].pop('effvim')  # as another tool writes it
        torch.save(content, tmp_path / 'other.pth')
        message = mistake(
            capsys,
            'train',
            training_argv(
                root,
                tmp_path,
                *flags,
                '--resume',
                tmp_path / 'other.pth',
                more=['train_cfg.max_epochs=9'],
            ),
        )
        assert '--ema' in message and 'averaged' in message


def test_tensorboard_shows_what_the_log_says(root, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(root, tmp_path, '--tensorboard', more=['default_hooks.logger.interval=1'])
    (log,) = tmp_path.glob('*/vis_data/scalars.json')
    records = [r for r in map(json.loads, log.read_text().splitlines()) if 'loss' in r]
    events = EventAccumulator(str(log.parent)).Reload()
    written = {e.step: e.value for e in events.Scalars('loss')}
    assert len(written) == len(records) == BATCHES
    for record in records:
        assert written[record['step']] == pytest.approx(record['loss'], rel=1e-5)
    assert events.Scalars('coco/bbox_mAP')


def test_tensorboard_absent(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    message = mistake(capsys, 'train', training_argv(root, tmp_path, '--tensorboard'))
    assert 'pip install tensorboard' in message


def mirrored(root, folder):
    """A copy of `root` whose images and label maps are flipped."""
    copy = shutil.copytree(root, folder)
    for path in [*copy.rglob('*.bmp'), *copy.rglob('*.png')]:
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    return copy


def test_augmented_detection_does_not_know_left_from_right(plain, root, tmp_path):
    """For flipped images it gives flipped boxes; plain detection does not."""
    turned = mirrored(root, tmp_path / 'turned')
    weights = plain[0] / 'epoch_2.pth'

    def boxes(*flags, mirror=False):
        rows = []
        for d in detections(tmp_path, weights, *flags):
            x, y, width, height = d['bbox']
            x = 96 - x - width if mirror else x
            rows.append((d['image_id'], d['category_id'], d['score'], x, y, width, height))
        return np.array(sorted(rows))

    here, there = boxes('--tta'), boxes('--tta', '--data-root', str(turned), mirror=True)
    assert here.shape == there.shape and len(here) > 10
    np.testing.assert_allclose(here, there, atol=1e-2)
    here, there = boxes(), boxes('--data-root', str(turned), mirror=True)
    assert here.shape != there.shape or np.abs(here - there).max() > 1


@pytest.mark.parametrize('path', [RETINANET, SEMFPN], ids=['retinanet', 'semfpn'])
def test_augmentation_at_the_size_of_the_synthetic_dataset(path, monkeypatch):
    for name in ('draw_coco', 'draw_ade'):
        monkeypatch.setattr(synthetic, name, lambda root, *_, **__: root)
    cfg = load_config(path)
    presets.apply_presets(cfg, ['from_scratch', 'mini'])
    size = cfg.test_dataloader.dataset.pipeline[1].scale
    use_tta(cfg, path)
    assert cfg.test_dataloader.dataset.pipeline[1].transforms[0][0].scale == size
    assert cfg.model.module.type in ('RetinaNet', 'EncoderDecoder')


def test_augmented_segmentation_does_not_know_left_from_right(tmp_path):
    root = synthetic.draw_ade(tmp_path / 'ade', num_train=1, num_val=2, size=128)
    for path in root.glob('*/*/*.bmp'):
        Image.open(path).crop((0, 0, 96, 64)).save(path.with_suffix('.png'))
        path.unlink()
    shutil.rmtree(root / 'images/training')  # a test does not ask for it
    turned = mirrored(root, tmp_path / 'turned')
    model, _ = wrapper_of(SEMFPN, {}, constructor='DefaultOptimWrapperConstructor')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'c.pth')

    def labels(folder, *flags):
        assert (
            run_command(
                'test',
                [
                    SEMFPN,
                    str(tmp_path / 'c.pth'),
                    '--data-root',
                    str(folder),
                    *flags,
                    '--work-dir',
                    str(tmp_path),
                    '--cfg-options',
                    'test_dataloader.num_workers=0',
                    'test_dataloader.dataset.pipeline.1.scale=(96,64)',
                    'tta_pipeline.1.transforms.0.0.scale=(96,64)',
                    '+test_dataloader.dataset.img_suffix=.png',
                    f'+test_evaluator.output_dir={tmp_path / "maps"}',
                ],
            )
            == 0
        )
        return np.stack([Image.open(path) for path in sorted((tmp_path / 'maps').iterdir())])

    here, there = labels(root, '--tta'), labels(turned, '--tta')[:, :, ::-1]
    assert here.shape == (2, 64, 96) and len(np.unique(here)) > 3
    assert (here == there).mean() > 0.999
    assert (labels(root) == labels(turned)[:, :, ::-1]).mean() < 0.9


def test_augmentation_that_the_config_does_not_have(root, plain, tmp_path, capsys):
    torch.save(
        {'state_dict': {f'backbone.{n}': v for n, v in EfficientViM('m1').state_dict().items()}},
        tmp_path / 'c.pth',
    )
    message = mistake(
        capsys,
        'test',
        [MASK_RCNN, tmp_path / 'c.pth', '--data-root', root, '--tta', '--work-dir', tmp_path],
    )
    assert 'not masks' in message and 'test_evaluator.metric=bbox' in message
    message = mistake(
        capsys,
        'test',
        [
            RETINANET,
            plain[0] / 'epoch_1.pth',
            '--tta',
            '--work-dir',
            tmp_path,
            '--cfg-options',
            'test_dataloader.dataset.pipeline.1.scale=(64,64)',
        ],
    )
    assert 'to 96, 64,' in message and 'to 64, 64:' in message
