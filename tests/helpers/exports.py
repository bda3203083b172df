"""Small models that predict objects everywhere, and datasets that they do well on."""

import json
import shutil
from pathlib import Path

import mmcv
import numpy as np
import torch
from pycocotools import mask as rle

from effvim.config.editing import apply_options, parse_options, set_classes
from effvim.config.reading import import_plugins, load_config
from effvim.datasets import synthetic
from effvim.export import parity
from tests.helpers.networks import randomised
from tests.helpers.paths import ROOT

SCALE = '(128,128)'
# By kind: the config, options, and the last layers with how widely their outputs vary around what.
KINDS = {
    'RetinaNet': (
        'retinanet',
        ['model.test_cfg.score_thr=0.3', 'model.test_cfg.nms_pre=200'],
        [('bbox_head.retina_cls', 1, -1), ('bbox_head.retina_reg', 0.3, 0)],
    ),
    'RTMDet': (
        'rtmdet',
        [
            'model.test_cfg.score_thr=0.3',
            'model.test_cfg.nms_pre=200',
            'model.test_cfg.max_per_img=100',
            'test_dataloader.dataset.pipeline.2.size=' + SCALE,
        ],
        [
            (f'bbox_head.rtm_{branch}.{level}', *how)
            for level in range(4)
            for branch, how in (('cls', (1, -1)), ('reg', (0.3, 1)))
        ],
    ),
    'MaskRCNN': (
        'mask_rcnn',
        [
            'model.test_cfg.rpn.max_per_img=50',
            'model.test_cfg.rcnn.max_per_img=20',
            'model.test_cfg.rcnn.score_thr=0.3',
        ],
        [
            ('rpn_head.rpn_cls', 1, 0),
            ('rpn_head.rpn_reg', 0.3, 0),
            ('roi_head.bbox_head.fc_cls', 0.6, 0),
            ('roi_head.bbox_head.fc_reg', 1, 0),
            ('roi_head.mask_head.conv_logits', 1, 0),
        ],
    ),
    'EncoderDecoder': (
        'semfpn',
        [
            f'{loader}_dataloader.dataset.{key}'
            for loader in ('train', 'val', 'test')
            for key in ('type=BaseSegDataset', 'img_suffix=.bmp', 'seg_map_suffix=.bmp')
        ]
        + [
            f'+{loader}_dataloader.dataset.metainfo.classes=[{",".join(synthetic.ADE_CLASSES)}]'
            for loader in ('train', 'val', 'test')
        ],
        [('decode_head.conv_seg', 1, 0)],
    ),
}


def options_of(kind):
    return [f'test_dataloader.dataset.pipeline.1.scale={SCALE}', *KINDS[kind][1]]


def config_of(kind, classes, more=(), name=None):
    """The path of a config, and its content, small."""
    path = str(ROOT / f'configs/{name or KINDS[kind][0]}_effvim_m1.py')
    cfg = load_config(path)
    apply_options(cfg, parse_options([*options_of(kind), *more]))
    set_classes(cfg, classes)
    cfg.model.backbone.init_cfg = None
    import_plugins(cfg)
    return path, cfg


def model_of(kind, cfg):
    """A model with all parameters off their initial values, which predicts objects everywhere."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = randomised(revert_sync_batchnorm(MODELS.build(cfg.model))).eval()
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    for name, gain, around in KINDS[kind][2]:
        layer, seen = model.get_submodule(name), []
        hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # noqa: B023
        parity.predict(model, [image], kind)
        hook.remove()
        seen = [x.transpose(0, 1).flatten(1) for x in seen]  # C …, of each level
        mean = seen[0].mean(1, keepdim=True)
        spread = torch.stack([(x - mean).square().mean(1) for x in seen]).amax(0).sqrt() + 1e-3
        shape = (1, -1, *[1] * (layer.weight.dim() - 2))
        with torch.no_grad():
            layer.weight.copy_(
                torch.randn(layer.weight.shape)
                * gain
                / spread.view(shape)
                / layer.weight[0].numel() ** 0.5
            )
            shift = (layer.weight * mean.view(shape)).flatten(1).sum(1)
            layer.bias.copy_(around - shift)
    return model


def with_ground_truth(root, model, kind, folder):
    """The dataset in `folder`, annotated with the model's best predictions, somewhat displaced.

    Metrics of random predictions would depend on the order of equal scores. The images get the size
    that the test pipeline gives them.
    """
    root = Path(shutil.copytree(root, folder / 'coco'))
    path = root / 'annotations/instances_val2017.json'
    content = json.loads(path.read_text())
    content['annotations'] = annotations = []
    for image in content['images']:
        path_of_image = root / 'val2017' / image['file_name']
        pixels = mmcv.imrescale(mmcv.imread(path_of_image), (128, 128))
        mmcv.imwrite(pixels, path_of_image)
        image['height'], image['width'] = pixels.shape[:2]
        (sample,) = parity.predict(model, [torch.from_numpy(pixels).permute(2, 0, 1)], kind)
        best = sample.pred_instances[:8]
        for i, (box, label) in enumerate(zip(best.bboxes.tolist(), best.labels.tolist())):
            x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
            x += 0.06 * (i % 4) * width
            triangle = [x, y, x + width, y, x, y + height]
            annotation = dict(
                id=len(annotations) + 1,
                image_id=image['id'],
                category_id=label + 1,
                iscrowd=0,
                bbox=[x, y, width, height],
                area=width * height,
                segmentation=[triangle],
            )
            if 'masks' in best:
                mask = best.masks[i].roll(i % 4, 1).numpy()
                code = rle.encode(np.asfortranarray(mask, np.uint8))
                annotation['segmentation'] = {**code, 'counts': code['counts'].decode()}
            annotations.append(annotation)
    path.write_text(json.dumps(content))
    return root
