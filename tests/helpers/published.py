"""The authors' files as their published description says: names, shapes, formats, and what their
necks and heads compute, in plain torch. Nothing here is taken from the project's code.
"""

import sys
import types
from collections import OrderedDict

import torch
import torch.nn.functional as F

# widths, blocks and hidden states of the three stages
VARIANTS = {
    'm1': ((128, 192, 320), (2, 2, 2), (49, 25, 9)),
    'm2': ((128, 256, 512), (2, 2, 2), (49, 25, 9)),
    'm3': ((224, 320, 512), (2, 2, 2), (49, 25, 9)),
    'm4': ((224, 320, 512), (3, 4, 2), (64, 32, 16)),
}

# A line is a name and a shape; "BN n" is a batch norm of n channels. C, D: widths of this stage and
# of the next, N hidden states, K classes, C1 to C3: widths of the stages.
STEM = """
patch_embed.conv.0.conv.weight C1/8 3 3 3
patch_embed.conv.0.norm BN C1/8
patch_embed.conv.1.conv.weight C1/4 C1/8 3 3
patch_embed.conv.1.norm BN C1/4
patch_embed.conv.2.conv.weight C1/2 C1/4 3 3
patch_embed.conv.2.norm BN C1/2
patch_embed.conv.3.conv.weight C1 C1/2 3 3
patch_embed.conv.3.norm BN C1
"""
BLOCK = """
alpha 4 C
norm.weight 1 C 1
norm.bias 1 C 1
dwconv1.conv.weight C 1 3 3
dwconv1.norm BN C
dwconv2.conv.weight C 1 3 3
dwconv2.norm BN C
mixer.A N
mixer.D 1
mixer.BCdt_proj.conv.weight 3*N C 1
mixer.dw.conv.weight 3*N 1 3 3
mixer.hz_proj.conv.weight 2*C C 1
mixer.out_proj.conv.weight C C 1
ffn.fc1.conv.weight 4*C C 1 1
ffn.fc1.norm BN 4*C
ffn.fc2.conv.weight C 4*C 1 1
ffn.fc2.norm BN C
"""
DOWNSAMPLE = """
dwconv1.conv.weight C 1 3 3
dwconv1.norm BN C
conv.0.conv.weight 4*D C 1 1
conv.0.norm BN 4*D
conv.1.conv.weight 4*D 1 3 3
conv.1.norm BN 4*D
conv.2.fc1.weight D 4*D 1 1
conv.2.fc1.bias D
conv.2.fc2.weight 4*D D 1 1
conv.2.fc2.bias 4*D
conv.3.conv.weight D 4*D 1 1
conv.3.norm BN D
dwconv2.conv.weight D 1 3 3
dwconv2.norm BN D
"""
NORMS = """
norm.0.weight 1 C1 1
norm.0.bias 1 C1 1
norm.1.weight 1 C2 1
norm.1.bias 1 C2 1
norm.2.weight 1 C3 1
norm.2.bias 1 C3 1
norm.3.weight 1 C3 1 1
norm.3.bias 1 C3 1 1
"""
FUSION = """
weights 4
heads.0.weight 1000 C1
heads.0.bias 1000
heads.1.weight 1000 C2
heads.1.bias 1000
heads.2.weight 1000 C3
heads.2.bias 1000
heads.3.weight 1000 C3
heads.3.bias 1000
"""
DETECTION_NECK = """
neck.batch_norm.0.weight 1 C1 1 1
neck.batch_norm.0.bias 1 C1 1 1
neck.batch_norm.1.weight 1 C2 1 1
neck.batch_norm.1.bias 1 C2 1 1
neck.batch_norm.2.weight 1 C3 1 1
neck.batch_norm.2.bias 1 C3 1 1
neck.extra_trans_convs.0.conv.weight 256 256 2 2
neck.extra_trans_convs.0.conv.bias 256
neck.extra_fpn_convs.0.conv.weight 256 256 3 3
neck.extra_fpn_convs.0.conv.bias 256
"""
FPN = """
neck.lateral_convs.0.conv.weight 256 C1 1 1
neck.lateral_convs.0.conv.bias 256
neck.lateral_convs.1.conv.weight 256 C2 1 1
neck.lateral_convs.1.conv.bias 256
neck.lateral_convs.2.conv.weight 256 C3 1 1
neck.lateral_convs.2.conv.bias 256
neck.fpn_convs.0.conv.weight 256 256 3 3
neck.fpn_convs.0.conv.bias 256
neck.fpn_convs.1.conv.weight 256 256 3 3
neck.fpn_convs.1.conv.bias 256
neck.fpn_convs.2.conv.weight 256 256 3 3
neck.fpn_convs.2.conv.bias 256
"""
RETINANET = (
    DETECTION_NECK
    + FPN
    + """
neck.fpn_convs.3.conv.weight 256 C3 3 3
neck.fpn_convs.3.conv.bias 256
bbox_head.cls_convs.0.conv.weight 256 256 3 3
bbox_head.cls_convs.0.conv.bias 256
bbox_head.cls_convs.1.conv.weight 256 256 3 3
bbox_head.cls_convs.1.conv.bias 256
bbox_head.cls_convs.2.conv.weight 256 256 3 3
bbox_head.cls_convs.2.conv.bias 256
bbox_head.cls_convs.3.conv.weight 256 256 3 3
bbox_head.cls_convs.3.conv.bias 256
bbox_head.reg_convs.0.conv.weight 256 256 3 3
bbox_head.reg_convs.0.conv.bias 256
bbox_head.reg_convs.1.conv.weight 256 256 3 3
bbox_head.reg_convs.1.conv.bias 256
bbox_head.reg_convs.2.conv.weight 256 256 3 3
bbox_head.reg_convs.2.conv.bias 256
bbox_head.reg_convs.3.conv.weight 256 256 3 3
bbox_head.reg_convs.3.conv.bias 256
bbox_head.retina_cls.weight 9*K 256 3 3
bbox_head.retina_cls.bias 9*K
bbox_head.retina_reg.weight 36 256 3 3
bbox_head.retina_reg.bias 36
"""
)
MASK_RCNN = (
    DETECTION_NECK
    + FPN
    + """
neck.extra_trans_convs.1.conv.weight 256 256 2 2
neck.extra_trans_convs.1.conv.bias 256
neck.extra_fpn_convs.1.conv.weight 256 256 3 3
neck.extra_fpn_convs.1.conv.bias 256
rpn_head.rpn_conv.weight 256 256 3 3
rpn_head.rpn_conv.bias 256
rpn_head.rpn_cls.weight 3 256 1 1
rpn_head.rpn_cls.bias 3
rpn_head.rpn_reg.weight 12 256 1 1
rpn_head.rpn_reg.bias 12
roi_head.bbox_head.shared_fcs.0.weight 1024 12544
roi_head.bbox_head.shared_fcs.0.bias 1024
roi_head.bbox_head.shared_fcs.1.weight 1024 1024
roi_head.bbox_head.shared_fcs.1.bias 1024
roi_head.bbox_head.fc_cls.weight K+1 1024
roi_head.bbox_head.fc_cls.bias K+1
roi_head.bbox_head.fc_reg.weight 4*K 1024
roi_head.bbox_head.fc_reg.bias 4*K
roi_head.mask_head.convs.0.conv.weight 256 256 3 3
roi_head.mask_head.convs.0.conv.bias 256
roi_head.mask_head.convs.1.conv.weight 256 256 3 3
roi_head.mask_head.convs.1.conv.bias 256
roi_head.mask_head.convs.2.conv.weight 256 256 3 3
roi_head.mask_head.convs.2.conv.bias 256
roi_head.mask_head.convs.3.conv.weight 256 256 3 3
roi_head.mask_head.convs.3.conv.bias 256
roi_head.mask_head.upsample.weight 256 256 2 2
roi_head.mask_head.upsample.bias 256
roi_head.mask_head.conv_logits.weight K 256 1 1
roi_head.mask_head.conv_logits.bias K
"""
)
SEMFPN = (
    FPN
    + """
decode_head.conv_seg.weight K 128 1 1
decode_head.conv_seg.bias K
decode_head.scale_heads.0.0.conv.weight 128 256 3 3
decode_head.scale_heads.0.0.bn BN 128
decode_head.scale_heads.1.0.conv.weight 128 256 3 3
decode_head.scale_heads.1.0.bn BN 128
decode_head.scale_heads.2.0.conv.weight 128 256 3 3
decode_head.scale_heads.2.0.bn BN 128
decode_head.scale_heads.2.2.conv.weight 128 128 3 3
decode_head.scale_heads.2.2.bn BN 128
decode_head.scale_heads.3.0.conv.weight 128 256 3 3
decode_head.scale_heads.3.0.bn BN 128
decode_head.scale_heads.3.2.conv.weight 128 128 3 3
decode_head.scale_heads.3.2.bn BN 128
decode_head.scale_heads.3.4.conv.weight 128 128 3 3
decode_head.scale_heads.3.4.bn BN 128
"""
)
BN = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')


def parsed(text, prefix='', **sizes):
    """Names and shapes of a text as above."""
    shapes = {}
    for line in text.split('\n'):
        name, *dims = line.split() or ['']
        shape = tuple(int(eval(dim, {}, sizes)) for dim in dims if dim != 'BN')
        if 'BN' in dims:
            shapes.update({f'{prefix}{name}.{part}': shape for part in BN[:-1]})
            shapes[f'{prefix}{name}.{BN[-1]}'] = ()
        elif name:
            shapes[prefix + name] = shape
    return shapes


def backbone_shapes(variant, prefix=''):
    widths, depths, states = VARIANTS[variant]
    shapes = parsed(STEM, prefix, C1=widths[0])
    for s, depth in enumerate(depths):
        for b in range(depth):
            shapes |= parsed(BLOCK, f'{prefix}stages.{s}.blocks.{b}.', C=widths[s], N=states[s])
        if s < 2:
            shapes |= parsed(
                DOWNSAMPLE, f'{prefix}stages.{s}.downsample.', C=widths[s], D=widths[s + 1]
            )
    return shapes


def classifier_shapes(variant, distilled=False):
    widths = dict(zip(('C1', 'C2', 'C3'), VARIANTS[variant][0]))
    shapes = backbone_shapes(variant) | parsed(NORMS + FUSION, **widths)
    if distilled:
        text = FUSION.replace('weights', 'weights_dist').replace('heads.', 'heads_dist.')
        shapes |= parsed(text, **widths)
    return shapes


def model_shapes(text, variant, num_classes):
    """A detector or segmentor: RETINANET, MASK_RCNN or SEMFPN above a variant."""
    widths = dict(zip(('C1', 'C2', 'C3'), VARIANTS[variant][0]))
    return backbone_shapes(variant, 'backbone.') | parsed(text, K=num_classes, **widths)


def filled(shapes, seed=0):
    """Random tensors of these shapes, of a size that keeps activations near one."""
    generator = torch.Generator().manual_seed(seed)
    state = OrderedDict()
    for name, shape in shapes.items():
        value = torch.rand(shape, generator=generator)
        last = name.rpartition('.')[2]
        if last == 'num_batches_tracked':
            value = torch.tensor(7)
        elif last in ('running_var', 'D') or (last == 'weight' and value.numel() == max(shape)):
            value = 0.5 + value
        elif last == 'alpha':
            value = 4 * value - 2
        elif last == 'weight':
            value = (2 * value - 1) * (3 / value[0].numel()) ** 0.5
        else:
            value = value - 0.5
        state[name] = value
    return state


class CfgNode(dict):
    """Stands for yacs.config.CfgNode, which the authors' ImageNet files hold."""

    __module__ = 'yacs.config'


def save_imagenet(path, raw, ema, monkeypatch, **more):
    """As the authors' training does: raw and averaged weights, optimiser, a yacs config object."""
    with monkeypatch.context() as patch:
        module = types.ModuleType('yacs.config')
        module.CfgNode = CfgNode
        patch.setitem(sys.modules, 'yacs', types.ModuleType('yacs'))
        patch.setitem(sys.modules, 'yacs.config', module)
        config = CfgNode(MODEL=CfgNode(NAME='EfficientViM_M1'))
        for node in (config, config['MODEL']):
            vars(node).update(__immutable__=True, __deprecated_keys__=set(), __renamed_keys__={})
        content = {
            'model': raw,
            'model_ema': ema,
            'config': config,
            'epoch': 449,
            'optimizer': {'state': {0: {'step': torch.tensor(1.0)}}, 'param_groups': []},
        }
        torch.save({**content, **more}, path)


def save_openmmlab(path, state, package, version, classes, palette, **more):
    """As mmdet 2 and mmseg 0 do."""
    state._metadata = OrderedDict({'': {'version': 1}, 'backbone': {'version': 1}})
    meta = {
        f'{package}_version': version,
        'mmcv_version': '1.7.1',
        'config': 'import nothing',
        'CLASSES': classes,
        'PALETTE': palette,
        'seed': 0,
        'epoch': 12,
        'iter': 87960,
        **more,
    }
    torch.save({'meta': meta, 'state_dict': state, 'optimizer': {'state': {}}}, path)


def conv(w, name, x, **kwargs):
    return F.conv2d(x, w[f'{name}.weight'], w.get(f'{name}.bias'), **kwargs)


def lateral_sums(w, maps):
    sums = [conv(w, f'neck.lateral_convs.{i}.conv', x) for i, x in enumerate(maps)]
    for i in (1, 0):
        sums[i] = sums[i] + F.interpolate(sums[i + 1], sums[i].shape[2:], mode='nearest')
    return sums


def detection_neck(w, maps):
    """The outputs, finest first, of the neck whose tensors are `w`, by the authors' names."""
    normed = []
    for i, x in enumerate(maps):
        x = (x - x.mean(1, True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        normed.append(x * w[f'neck.batch_norm.{i}.weight'] + w[f'neck.batch_norm.{i}.bias'])
    sums = lateral_sums(w, normed)
    outs = [conv(w, f'neck.fpn_convs.{i}.conv', x, padding=1) for i, x in enumerate(sums)]

    def up(name, x):
        return F.conv_transpose2d(x, w[f'{name}.conv.weight'], w[f'{name}.conv.bias'], stride=2)

    stride8 = up('neck.extra_trans_convs.0', sums[0])
    if 'neck.extra_trans_convs.1.conv.weight' in w:  # Mask R-CNN
        stride4 = up('neck.extra_trans_convs.1', stride8)
        return [
            conv(w, 'neck.extra_fpn_convs.0.conv', stride4, padding=1),
            conv(w, 'neck.extra_fpn_convs.1.conv', stride8, padding=1),
            *outs,
        ]
    return [
        conv(w, 'neck.extra_fpn_convs.0.conv', stride8, padding=1),
        *outs,
        conv(w, 'neck.fpn_convs.3.conv', normed[2], stride=2, padding=1),
    ]


def retina_head(w, x):
    """Class scores and box offsets of one level."""
    scores = boxes = x
    for i in range(4):
        scores = conv(w, f'bbox_head.cls_convs.{i}.conv', scores, padding=1).relu()
        boxes = conv(w, f'bbox_head.reg_convs.{i}.conv', boxes, padding=1).relu()
    return (
        conv(w, 'bbox_head.retina_cls', scores, padding=1),
        conv(w, 'bbox_head.retina_reg', boxes, padding=1),
    )


def rpn_head(w, x):
    x = conv(w, 'rpn_head.rpn_conv', x, padding=1).relu()
    return conv(w, 'rpn_head.rpn_cls', x), conv(w, 'rpn_head.rpn_reg', x)


def box_head(w, x):
    """Class scores and box offsets of regions, B 256 7 7."""

    def linear(name, x):
        return F.linear(
            x, w[f'roi_head.bbox_head.{name}.weight'], w[f'roi_head.bbox_head.{name}.bias']
        )

    x = linear('shared_fcs.1', linear('shared_fcs.0', x.flatten(1)).relu()).relu()
    return linear('fc_cls', x), linear('fc_reg', x)


def mask_head(w, x):
    """Mask logits of regions, B 256 14 14."""
    for i in range(4):
        x = conv(w, f'roi_head.mask_head.convs.{i}.conv', x, padding=1).relu()
    up = 'roi_head.mask_head.upsample'
    x = F.conv_transpose2d(x, w[f'{up}.weight'], w[f'{up}.bias'], stride=2).relu()
    return conv(w, 'roi_head.mask_head.conv_logits', x)


def semantic_fpn(w, maps):
    """Logits at stride 16."""
    sums = lateral_sums(w, maps)
    outs = [conv(w, f'neck.fpn_convs.{i}.conv', x, padding=1) for i, x in enumerate(sums)]
    outs.append(F.max_pool2d(outs[2], 1, stride=2))
    total = 0
    for level, x in enumerate(outs):
        for step in range(max(1, level)):
            name = f'decode_head.scale_heads.{level}.{2 * step}'
            x = conv(w, f'{name}.conv', x, padding=1)
            x = F.batch_norm(
                x,
                *(
                    w[f'{name}.bn.{part}']
                    for part in ('running_mean', 'running_var', 'weight', 'bias')
                ),
            ).relu()
            if level:
                x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
        total = total + F.interpolate(x, outs[0].shape[2:], mode='bilinear', align_corners=False)
    return conv(w, 'decode_head.conv_seg', total)
