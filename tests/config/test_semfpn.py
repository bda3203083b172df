"""Semantic FPN: the published recipe asked of what is built, and against mmseg's own parts."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

import mmseg_plugin  # noqa: F401
from tests.helpers.paths import ROOT

CONFIGS = sorted((ROOT / 'configs').glob('semfpn_*.py'))
M4 = ROOT / 'configs/semfpn_effvim_m4.py'


def read(path):
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None
    return cfg


def build(cfg):
    import mmseg.models  # noqa: F401
    from mmseg.registry import MODELS

    init_default_scope('mmseg')
    return MODELS.build(copy.deepcopy(cfg.model))


def pipeline(steps):
    """The transforms of a pipeline, built."""
    from mmengine.dataset import Compose

    init_default_scope('mmseg')
    return Compose(copy.deepcopy(steps)).transforms


def sample(root, split, index=0):
    """What a dataset hands to its pipeline."""
    image = sorted((root / 'images' / split).iterdir())[index]
    return dict(
        img_path=str(image),
        reduce_zero_label=True,
        label_map=None,
        seg_fields=[],
        seg_map_path=str(root / 'annotations' / split / f'{image.stem}.png'),
    )


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_head_and_preparation_are_mmsegs(path, standard_semfpn):
    ours, theirs = read(path), copy.deepcopy(standard_semfpn)
    assert ours.model.data_preprocessor == theirs.model.data_preprocessor
    assert ours.model.test_cfg == theirs.model.test_cfg and ours.model.type == theirs.model.type
    assert ours.model.decode_head.pop('feature_strides') == [16, 32, 64, 128]
    assert theirs.model.decode_head.pop('feature_strides') == [4, 8, 16, 32]
    assert ours.model.decode_head == theirs.model.decode_head
    # the dataset says it, mmseg's transform has deprecated to say it again
    theirs.train_pipeline[1].pop('reduce_zero_label')
    assert ours.train_dataloader.dataset.pipeline == theirs.train_pipeline
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        mine, packaged = ours[loader].dataset, theirs[loader].dataset
        assert mine.type == packaged.type and mine.data_prefix == packaged.data_prefix
        assert ours[loader].sampler == theirs[loader].sampler
        assert mine.reduce_zero_label


def test_built_head_is_mmsegs_and_knows_the_true_strides(standard_semfpn):
    ours = build(read(M4)).eval()
    theirs = build(standard_semfpn)
    assert str(ours.decode_head) == str(theirs.decode_head)  # only ratios of strides matter
    with torch.no_grad():
        maps = ours.extract_feat(torch.randn(1, 3, 128, 256))
    assert [tuple(m.shape) for m in maps] == [
        (1, 256, 128 // s, 256 // s) for s in ours.decode_head.feature_strides
    ]
    assert torch.equal(maps[3], maps[2][:, :, ::2, ::2])
    convolutions = [m for m in ours.neck.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 6 and all(m.bias is not None for m in convolutions)
    assert not [m for m in ours.neck.modules() if 'Norm' in type(m).__name__]
    norms = [m for m in ours.decode_head.modules() if 'Norm' in type(m).__name__]
    assert norms and all(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)


def test_published_number_of_parameters():
    model = build(read(M4))
    assert model.decode_head.num_classes == 150
    assert sum(p.numel() for p in model.parameters()) == 21_715_867


def test_published_treatment_of_bn():
    model = build(read(M4)).train()
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    assert all(p.requires_grad for m in norms for p in m.parameters())
    assert all(m.training for m in model.decode_head.modules())


def test_recipe_of_the_built_optimiser_and_schedule():
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import PARAM_SCHEDULERS

    cfg = read(M4)
    model = build(cfg)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    assert type(wrapper.optimizer) is torch.optim.AdamW and wrapper.clip_grad_kwargs is None
    assert sum(p.numel() for g in wrapper.param_groups for p in g['params']) == 21_715_867
    for group in wrapper.param_groups:  # no parameter is exempt from decay
        assert (group['lr'], group['betas'], group['weight_decay']) == (2e-4, (0.9, 0.999), 1e-4)
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 32
    assert cfg.train_cfg == dict(type='IterBasedTrainLoop', max_iters=40_000, val_interval=4000)

    wrapper = build_optim_wrapper(torch.nn.Linear(2, 2), cfg.optim_wrapper)
    (scheduler,) = (
        PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=wrapper)) for s in cfg.param_scheduler
    )
    rates = []
    for _ in range(40_000):
        rates.append(wrapper.param_groups[0]['lr'])
        scheduler.step()
    assert rates[0] == 2e-4  # no warm-up
    for i in (1, 100, 4000, 20_000, 36_000, 39_900, 39_999):  # as mmcv 1's
        expected = (2e-4 - 1e-6) * (1 - i / 40_000) ** 0.9 + 1e-6
        assert rates[i] == pytest.approx(expected, rel=1e-6), i


def test_recipe_of_the_built_training_pipeline(ade_root):
    """Two hundred draws from a real image: labels, sizes, crops, flips, colours."""
    load, annotate, resize, crop, flip, distort, _ = pipeline(
        read(M4).train_dataloader.dataset.pipeline
    )
    results = annotate(load(sample(ade_root, 'training')))
    raw = np.asarray(Image.open(results['seg_map_path']))
    assert set(np.unique(raw)) > {0} and results['gt_seg_map'].max() == 255
    assert np.array_equal(results['gt_seg_map'], np.where(raw == 0, 255, raw.astype(int) - 1))

    small = dict(img=results['img'][:64, :80], gt_seg_map=raw[:64, :80], seg_fields=['gt_seg_map'])
    ratios = []
    for _ in range(200):
        resized = resize(dict(small))
        long, short = resized['scale']
        assert long == pytest.approx(4 * short, abs=4)
        assert resized['img'].shape[:2] == resized['gt_seg_map'].shape
        assert resized['img'].shape[0] == pytest.approx(short, abs=1)
        assert resized['img'].shape[1] == pytest.approx(short * 80 / 64, abs=1)
        ratios.append(short / 512)
    assert 0.5 <= min(ratios) < 0.55 and 1.9 < max(ratios) <= 2.0
    assert np.mean(ratios) == pytest.approx(1.25, abs=0.1)

    assert crop.crop_size == (512, 512) and crop.cat_max_ratio == 0.75
    cut = crop(copy.deepcopy(results))
    assert cut['img'].shape[:2] == cut['gt_seg_map'].shape == (512, 512)
    flips = [flip(dict(cut))['flip'] for _ in range(200)]
    assert 70 < sum(flips) < 130
    assert not np.array_equal(distort(dict(cut, img=cut['img'].copy()))['img'], cut['img'])


def test_small_crops_are_padded_with_pixels_that_do_not_count(ade_root):
    """The published pad values: 0 after normalisation, label 255."""
    load, annotate, *_, pack = pipeline(read(M4).train_dataloader.dataset.pipeline)
    results = annotate(load(sample(ade_root, 'validation', 2)))  # 400 × 300
    packed = pack({**results, 'img': results['img'], 'img_shape': results['img'].shape[:2]})
    model = build(read(M4))
    data = model.data_preprocessor(
        dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']]), training=True
    )
    height, width = results['img'].shape[:2]
    labels = data['data_samples'][0].gt_sem_seg.data[0]
    assert data['inputs'].shape == (1, 3, 512, 512) and labels.shape == (512, 512)
    assert (labels[height:] == 255).all() and (labels[:, width:] == 255).all()
    assert (data['inputs'][..., height:, :] == 0).all()
    pixel = torch.tensor(np.asarray(Image.open(results['img_path']))[7, 9]).float()
    expected = (pixel - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor(
        [58.395, 57.12, 57.375]
    )
    assert torch.allclose(data['inputs'][0, :, 7, 9], expected, atol=0.05)  # RGB, decoders differ
    assert model.decode_head.ignore_index == 255


@pytest.mark.parametrize('index', range(6))
def test_test_images_are_stretched_to_multiples_of_32(ade_root, index):
    steps = pipeline(read(M4).test_dataloader.dataset.pipeline)
    results = sample(ade_root, 'validation', index)
    for step in steps[:2]:
        results = step(results)
    height, width = results['img'].shape[:2]
    original = np.asarray(Image.open(results['img_path'])).shape[:2]
    factor = min(512 / min(original), 2048 / max(original))
    assert (height, width) == tuple(int(s * factor + 0.5) for s in original)
    last = results['img'][-1, -1].astype(int)

    results = steps[2](results)
    size = tuple(-(-s // 32) * 32 for s in (height, width))
    assert results['img'].shape[:2] == size == tuple(results['img_shape'])
    assert np.abs(results['img'][-1, -1].astype(int) - last).max() <= 12  # no border was added
    assert steps[3](results)['gt_seg_map'].shape == original


def test_logits_come_back_at_the_original_size(ade_root):
    """And are those of the stretched image: no region of the map is cut off or left over."""
    cfg = read(M4)
    model = build(cfg).eval()
    results = sample(ade_root, 'validation', 1)
    for step in pipeline(cfg.test_dataloader.dataset.pipeline):
        results = step(results)
    assert results['inputs'].shape[1:] == (512, 704)  # 364 × 500 → 512 × 703 → 512 × 704
    with torch.no_grad():
        (prediction,) = model.test_step(
            dict(inputs=[results['inputs']], data_samples=[results['data_samples']])
        )
        pixels = model.data_preprocessor(dict(inputs=[results['inputs']]))['inputs']
        logits = model.decode_head(model.extract_feat(pixels))
    for size in ((512, 704), (364, 500)):
        logits = torch.nn.functional.interpolate(logits, size, mode='bilinear')
    assert prediction.seg_logits.data.shape == (150, 364, 500)
    assert torch.allclose(prediction.seg_logits.data, logits[0], atol=1e-5)
    assert torch.equal(prediction.pred_sem_seg.data[0], logits[0].argmax(0))
