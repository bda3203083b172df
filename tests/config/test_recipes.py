"""The published recipe of the detectors: every figure, in what is really built for M4.

A Runner is built as tools/train.py builds it, on synthetic images; then its optimiser, schedule,
loader, pipelines and preprocessor are asked what they do.
"""

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner as MMRunner

from effvim.config.reading import import_plugins, load_config
from effvim.engine.runner import Runner
from tests.helpers.cli import prepared_training
from tests.helpers.networks import randomised
from tests.helpers.recipe import COLOUR, CONFIGS, SIZES

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of R, G, B


@pytest.mark.parametrize('name', CONFIGS)
def test_starts_from_the_weights_of_450_epochs(name):
    start = load_config(CONFIGS[name]).model.backbone.init_cfg
    assert start == dict(type='Pretrained', checkpoint='timm/efficientvim_m4.e450_in1k')


def test_batches_of_16_of_shuffled_images_of_similar_shape(runner):
    loader = runner.train_dataloader
    epochs = []
    for epoch in range(2):
        loader.batch_sampler.sampler.set_epoch(epoch)
        epochs.append(list(loader.batch_sampler))
        assert {len(batch) for batch in epochs[-1][:-2]} == {16}
        for batch in epochs[-1][:-2]:
            infos = [loader.dataset.get_data_info(i) for i in batch]
            assert len({info['width'] < info['height'] for info in infos}) == 1
    seen = [sorted(i for batch in batches for i in batch) for batches in epochs]
    assert seen[0] == seen[1] == list(range(len(loader.dataset)))
    assert epochs[0] != epochs[1]


def test_adamw_without_clipping_or_exemption_in_float32(runner):
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper = wrapper
    assert type(wrapper).__name__ == 'OptimWrapper'  # no mixed precision
    assert wrapper.clip_grad_kwargs is None and wrapper._accumulative_counts == 1
    assert type(wrapper.optimizer) is torch.optim.AdamW
    (group,) = wrapper.optimizer.param_groups
    assert (group['lr'], group['betas'], group['weight_decay']) == (2e-4, (0.9, 0.999), 0.05)
    assert set(group['params']) == set(runner.model.parameters())
    assert {p.dtype for p in group['params']} == {torch.float32}


def test_backbone_trains_with_frozen_statistics_and_no_frozen_stage(runner):
    backbone = runner.model.train().backbone
    fixed = [n for n, p in backbone.named_parameters() if not p.requires_grad]
    assert all(n.endswith('mixer.A') for n in fixed) and len(fixed) == 9
    before = {n: v.clone() for n, v in randomised(backbone).state_dict().items()}
    optimiser = torch.optim.Adam(backbone.parameters(), 1e-2)
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 96))).backward()
    optimiser.step()
    for name, value in backbone.state_dict().items():
        statistic = 'running_' in name or name.endswith('num_batches_tracked')
        moved = not torch.equal(value, before[name])
        assert moved == (not statistic and name not in fixed), name


class Bare(BaseModel):
    """A model of one number, for the schedule alone."""

    def __init__(self):
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode):
        return {'loss': self.number.sum()}


class Rates(Hook):
    def __init__(self):
        self.seen = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.seen[runner.epoch, batch_idx] = runner.optim_wrapper.get_lr()['lr'][0]


@pytest.mark.parametrize('name', CONFIGS)
def test_schedule_of_twelve_epochs(name, tmp_path):
    """The rates that mmengine's own training loop uses, in epochs of 600 iterations."""
    cfg = load_config(CONFIGS[name])
    per_epoch = 600
    cfg.train_cfg.pop('val_interval')
    loop = MMRunner(
        Bare(),
        str(tmp_path),
        dict(
            dataset=[dict(inputs=torch.zeros(1))] * per_epoch,
            batch_size=1,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=cfg.train_cfg,
        optim_wrapper=cfg.optim_wrapper,
        log_level='ERROR',
        param_scheduler=cfg.param_scheduler,
        default_hooks=dict(logger=None, checkpoint=None),
    )
    loop.register_hook(rates := Rates())
    loop.train()
    assert len(rates.seen) == 12 * per_epoch
    for (epoch, i), rate in rates.seen.items():
        done = min(1, (epoch * per_epoch + i) / 500)  # as mmcv 1's warm-up of 500 iterations
        expected = 2e-4 * (0.001 + 0.999 * done) * 0.1 ** ((epoch >= 8) + (epoch >= 11))
        assert rate == pytest.approx(expected, rel=1e-6), (epoch, i)


@pytest.mark.parametrize('batch', [4, 16, 32])
@pytest.mark.parametrize('name', CONFIGS)
def test_rate_is_scaled_from_batch_16(name, batch, known_sizes, tmp_path):
    for flags, expected in (([], 2e-4), (['--auto-scale-lr'], 2e-4 * batch / 16)):
        cfg, spec = prepared_training(
            [
                CONFIGS[name],
                '--data-root',
                str(known_sizes),
                '--work-dir',
                str(tmp_path),
                *flags,
                '--cfg-options',
                'model.backbone.init_cfg=None',
                f'train_dataloader.batch_size={batch}',
            ]
        )
        import_plugins(cfg)
        cfg.model = dict(type='mmdet.FPN', in_channels=[8], out_channels=8, num_outs=1)
        runner = Runner(cfg, spec)
        wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(wrapper, runner.auto_scale_lr)
        assert wrapper.get_lr()['lr'] == [pytest.approx(expected)]


def items(runner, split):
    """The images of known size, as the pipeline packs them."""
    loader = runner.train_dataloader if split == 'train' else runner.val_dataloader
    numbers = {loader.dataset.get_data_info(i)['img_id']: i for i in range(len(loader.dataset))}
    first = 1 if split == 'train' else 500_001
    return [loader.dataset[numbers[first + i]] for i in range(len(SIZES))]


@pytest.mark.parametrize('split', ['train', 'val'])
def test_images_are_as_large_as_1333_by_800_allows(runner, split):
    for item, (size, expected) in zip(items(runner, split), SIZES.items()):
        sample = item['data_samples']
        assert sample.ori_shape == size[::-1] and sample.img_shape[:2] == expected[::-1]
        assert item['inputs'].shape == (3, *expected[::-1])


def test_flipped_in_half_of_the_cases_and_nothing_else_at_random(runner):
    names = [type(t).__name__ for t in runner.train_dataloader.dataset.pipeline.transforms]
    assert names == [
        'CheckedImageLoading',
        'LoadAnnotations',
        'Resize',
        'RandomFlip',
        'PackDetInputs',
    ]
    assert 'RandomFlip' not in [
        type(t).__name__ for t in runner.val_dataloader.dataset.pipeline.transforms
    ]
    flip = runner.train_dataloader.dataset.pipeline.transforms[3]
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.random.seed(0)
    flipped = 0
    for _ in range(2000):
        image = flip({'img': pixels.copy(), 'img_shape': (2, 4)})['img']
        mirrored = np.array_equal(image, pixels[:, ::-1])
        assert mirrored or np.array_equal(image, pixels)
        flipped += mirrored
    assert abs(flipped / 2000 - 0.5) < 0.05  # 4.5 standard deviations


def test_boxes_and_masks_follow_the_image(runner):
    """The box 10, 20, 30 × 60 of every image, resized and perhaps flipped."""
    seen = set()
    for _ in range(4):
        for item, (size, (width, height)) in zip(items(runner, 'train'), SIZES.items()):
            sample = item['data_samples']
            sx, sy = width / size[0], height / size[1]
            x1, x2 = (
                sorted([width - 10 * sx, width - 40 * sx]) if sample.flip else (10 * sx, 40 * sx)
            )
            expected = torch.tensor([[x1, 20 * sy, x2, 80 * sy]])
            boxes = sample.gt_instances.bboxes.tensor
            torch.testing.assert_close(boxes, expected, rtol=0, atol=0.1)
            seen.add(sample.flip)
            if 'masks' in sample.gt_instances:
                (mask,) = sample.gt_instances.masks.to_ndarray()
                rows, columns = np.nonzero(mask)
                outline = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(outline, expected[0], atol=2)
    assert seen == {True, False}


@pytest.mark.parametrize('split', ['train', 'val'])
def test_network_sees_normalised_rgb_padded_to_32(runner, split):
    for item, expected in zip(items(runner, split), SIZES.values()):
        data = {'inputs': [item['inputs']], 'data_samples': [item['data_samples']]}
        seen = runner.model.data_preprocessor(data, training=split == 'train')['inputs']
        width, height = expected
        assert seen.shape == (1, 3, -(-height // 32) * 32, -(-width // 32) * 32)
        for channel in range(3):
            inside = seen[0, channel, :height, :width]
            value = (COLOUR[channel] - MEAN[channel]) / STD[channel]
            torch.testing.assert_close(inside, torch.full_like(inside, value), rtol=0, atol=1e-5)
        assert not seen[:, :, height:].any() and not seen[:, :, :, width:].any()


def test_every_epoch_is_validated_and_the_last_and_the_best_are_kept(runner):
    loop = runner.train_loop
    assert (loop.max_epochs, loop.val_interval, loop.val_begin) == (12, 1, 1)
    keep = runner.cfg.default_hooks.checkpoint
    assert keep.interval == 1 and keep.max_keep_ckpts == 3 and keep.save_best == 'auto'


def test_heads_in_figures(runner):
    model = runner.model
    if runner.cfg.model.type == 'RetinaNet':
        head, test = model.bbox_head, model.test_cfg
        assert (len(head.cls_convs), len(head.reg_convs), head.num_base_priors) == (4, 4, 9)
        assert head.prior_generator.strides == [(s, s) for s in (8, 16, 32, 64, 128)]
        assert head.prior_generator.octave_base_scale == 4
        assert (head.loss_cls.gamma, head.loss_cls.alpha) == (2.0, 0.25)
        assert type(head.loss_bbox).__name__ == 'L1Loss'
        assert test.nms_pre == 1000
    else:
        assert model.rpn_head.prior_generator.strides == [(s, s) for s in (4, 8, 16, 32, 64)]
        for part in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
            assert part.featmap_strides == [4, 8, 16, 32]
        proposals, test = model.rpn_head.test_cfg, model.roi_head.test_cfg
        assert (proposals.nms.iou_threshold, proposals.max_per_img) == (0.7, 1000)
        assert test.mask_thr_binary == 0.5
    assert (test.score_thr, test.nms.iou_threshold, test.max_per_img) == (0.05, 0.5, 100)
