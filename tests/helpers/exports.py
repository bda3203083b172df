"""Small models that predict objects everywhere, datasets that they do well on, and examples."""

import importlib.util
import json
import re
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
# The configs of which files are tested in detail, by kind.
KINDS = {
    'RetinaNet': 'retinanet_effvim_m1',
    'RTMDet': 'rtmdet_effvim_m1',
    'MaskRCNN': 'mask_rcnn_effvim_m1',
    'EncoderDecoder': 'semfpn_effvim_m1',
}
# Layers that predict, by the end of their names, in the order of computation: how widely their
# outputs vary, around what.
LAYERS = (
    (r'retina_cls|atss_cls|rtm_cls\.\d+|multi_level_conv_cls\.\d+|bbox_head\.conv_cls', 1, -1),
    (r'retina_reg|atss_reg|multi_level_conv_reg\.\d+', 0.3, 0),
    (r'rtm_reg\.\d+|bbox_head\.conv_reg', 0.3, 1),
    (r'atss_centerness|conv_centerness|multi_level_conv_obj\.\d+', 1, 2),
    (r'rtm_kernel\.\d+|mask_head\.projection', 1, 0),
    (r'rpn_cls', 1, 0),
    (r'rpn_reg', 0.3, 0),
    (r'bbox_head\.fc_cls', 0.6, 0),
    (r'bbox_head\.fc_reg', 1, 0),
    # every stage of a cascade multiplies rounding
    (r'bbox_head\.\d+\.fc_cls', 0.3, 0),
    (r'bbox_head\.\d+\.fc_reg', 0.05, 0),
    (r'mask_head\.conv_logits', 1, 0),
    (r'cls_branches\.\d+', 1, -1),
    (r'reg_branches\.\d+\.4', 0.5, -1),
    (r'decode_head\.conv_seg', 1, 0),
)


def listing():
    """Names of the configs whose heads differ, one of each, of the smallest variant there is."""
    heads = {}
    for path in sorted(
        [*(ROOT / 'configs').glob('*.py'), *(ROOT / 'configs/gallery').glob('*.py')]
    ):
        model = load_config(str(path)).model
        names = ('bbox_head', 'roi_head', 'decode_head')
        head = next(model[name].type for name in names if name in model)
        name = path.relative_to(ROOT / 'configs').with_suffix('')
        heads.setdefault((model.type, head), str(name))
    return sorted(heads.values())


def path_of(name):
    """The path of a config. Name: as in `KINDS`."""
    return str(ROOT / f'configs/{name}.py')


def options_of(name):
    """Options that make the images and the results of a config small."""
    cfg = load_config(path_of(name))
    model, steps = cfg.model, cfg.test_dataloader.dataset.pipeline
    options = [
        f'test_dataloader.dataset.pipeline.{i}.{"size" if step.type == "Pad" else "scale"}={SCALE}'
        for i, step in enumerate(steps)
        if step.type in ('Resize', 'Pad')
    ]
    if 'decode_head' in model:
        for loader in ('train', 'val', 'test'):
            options += [
                f'{loader}_dataloader.dataset.{key}'
                for key in ('type=BaseSegDataset', 'img_suffix=.bmp', 'seg_map_suffix=.bmp')
            ]
            classes = ','.join(synthetic.ADE_CLASSES)
            options.append(f'+{loader}_dataloader.dataset.metainfo.classes=[{classes}]')
        return options
    test_cfg = model.test_cfg
    small = {
        'model.test_cfg': dict(score_thr=0.3, nms_pre=200, max_per_img=100),
        'model.test_cfg.rpn': dict(max_per_img=50),
        'model.test_cfg.rcnn': dict(max_per_img=20, score_thr=0.3),
    }
    for key, values in small.items():
        stage = test_cfg if key == 'model.test_cfg' else test_cfg.get(key.rpartition('.')[2], {})
        options += [f'{key}.{name}={value}' for name, value in values.items() if name in stage]
    return options


def config_of(name, classes, more=()):
    """The path of a config, and its content, small."""
    path = path_of(name)
    cfg = load_config(path)
    apply_options(cfg, parse_options([*options_of(name), *more]))
    set_classes(cfg, classes)
    cfg.model.backbone.init_cfg = None
    import_plugins(cfg)
    return path, cfg


def predicting_layers(model):
    """Names of the layers that predict, each with how widely it is to vary, around what."""
    found = []
    for pattern, *how in LAYERS:
        end = re.compile(rf'(^|.*\.)({pattern})')
        found += [(name, *how) for name, _ in model.named_modules() if end.fullmatch(name)]
    assert found, 'tests.helpers.exports.LAYERS knows no layer of this head'
    return found


def model_of(cfg):
    """A model with all parameters off their initial values, which predicts objects everywhere."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    for name, value in model.named_parameters():
        if name.endswith('level_embed'):  # of the DETRs: unset memory until init_weights()
            torch.nn.init.normal_(value)
    model = randomised(model).eval()
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    for name, gain, around in predicting_layers(model):
        layer, seen = model.get_submodule(name), []
        hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))  # noqa: B023
        parity.predict(model, [image], cfg.model.type)
        hook.remove()
        if isinstance(layer, torch.nn.Linear):
            seen = [x.flatten(0, -2)[..., None] for x in seen]
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


def example_script(name):
    """A script of examples/ as a module."""
    path = ROOT / f'examples/{name}.py'
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pipeline_of(cfg):
    """The test pipeline from an image in memory, H W 3, BGR."""
    from mmengine.dataset import Compose
    from mmengine.registry import init_default_scope

    init_default_scope(cfg.default_scope)
    steps = [s for s in cfg.test_dataloader.dataset.pipeline if s.type != 'LoadAnnotations']
    return Compose([dict(type='LoadImageFromNDArray'), *steps[1:]])
