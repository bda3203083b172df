"""Published files, in the layout of helpers/published.py, through tools/convert_weights.py."""

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from safetensors.torch import load_file, save_file
from timm.models.efficientvim import checkpoint_filter_fn

import mmdet_plugin  # noqa: F401
from backbone import ARCHS, EfficientViM, EfficientViMClassifier, UserError, weights
from effvim.checkpoints import checkpoint
from effvim.datasets import synthetic
from tests.helpers import published
from tests.helpers.cli import run_command
from tests.helpers.networks import randomised, relative
from tests.helpers.paths import ROOT

# Facts of the paper and of the published configs: M1 to M4 without and with distillation heads,
# then the three models on M4 with COCO's and ADE20K's classes.
CLASSIFIERS = {
    'm1': (6_679_458, 7_643_462),
    'm2': (13_903_842, 15_315_846),
    'm3': (16_604_174, 18_176_178),
    'm4': (19_606_505, 21_178_509),
}
TASKS = {
    'retinanet': (published.RETINANET, 80, 28_570_425),
    'mask_rcnn': (published.MASK_RCNN, 80, 39_323_701),
    'semfpn': (published.SEMFPN, 150, 21_715_867),
}
# All configs of M1 to M4 on one of the three tasks: a new config is covered at once.
CONFIGS = sorted(path for task in TASKS for path in (ROOT / 'configs').glob(f'{task}_effvim_m?.py'))


def call(*argv):
    """What the tool prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert run_command('convert', [str(a) for a in argv]) == 0
    return out.getvalue()


def rows(printed):
    """The table's counts by name."""
    cells = [[cell.strip() for cell in line.split('│')] for line in printed.splitlines()]
    return {c[1]: c[2] for c in cells if len(c) > 3 and c[1]}


def error(capsys, *argv):
    assert run_command('convert', [str(a) for a in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), lines
    return lines[0]


def numbers(shapes):
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if not name.endswith(('running_mean', 'running_var', 'num_batches_tracked'))
    )


def timm_of(variant, state, distilled=False):
    """timm's port with the authors' weights, read by timm's own rules."""
    network = timm.create_model(f'efficientvim_{variant}{"_dist" if distilled else ""}')
    network = network.double().eval()
    result = network.load_state_dict(checkpoint_filter_fn(dict(state), network), strict=False)
    assert not result.unexpected_keys
    return network


def test_the_names_in_helpers_have_the_published_sizes():
    assert ARCHS.keys() == published.VARIANTS.keys() == CLASSIFIERS.keys()
    for variant, totals in CLASSIFIERS.items():
        for distilled in (False, True):
            assert numbers(published.classifier_shapes(variant, distilled)) == totals[distilled]
    for text, classes, total in TASKS.values():
        assert numbers(published.model_shapes(text, 'm4', classes)) == total


@pytest.mark.parametrize('variant', ARCHS)
def test_the_authors_imagenet_files(variant, working_directory, monkeypatch):
    """Raw by default, averaged on demand; the result serves backbone and classifier."""
    distilled = variant in ('m2', 'm4')
    shapes = published.classifier_shapes(variant, distilled)
    raw, ema = published.filled(shapes, 1), published.filled(shapes, 2)
    below = {f'module.{name}': value for name, value in ema.items()}  # as timm's averaging saves
    published.save_imagenet('authors.pth', raw, below, monkeypatch)

    kind = 'classifier with distillation heads' if distilled else 'classifier'
    for flags, state in (([], raw), (['--raw'], raw), (['--ema'], ema)):
        printed = call('authors.pth', 'ours.safetensors', *flags)
        assert 'from an ImageNet checkpoint of the authors' in ' '.join(printed.split())
        assert f'ours.safetensors: {kind}, EfficientViM-{variant.upper()}' in printed
        assert ('model_ema in' if flags == ['--ema'] else 'model in') in printed
        blocks = sum(published.VARIANTS[variant][1])
        assert rows(printed) == {
            'read': str(len(shapes)),
            'renamed': '0',
            'added': '0',
            'dropped': '0',
            'reshaped': str(2 * blocks + 8),
            'written': str(len(shapes)),
            'ignored': '',
        }

        theirs = timm_of(variant, state, distilled)
        x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
        backbone = EfficientViM(variant).double().eval()
        assert len(weights.load_backbone(backbone, 'ours.safetensors').ignored) == (
            2 * 8 + 1 + distilled * 9
        )
        classifier = EfficientViMClassifier(variant, distillation=distilled).double().eval()
        assert weights.load_backbone(classifier, 'ours.safetensors').ignored == []
        with torch.no_grad():
            expected = theirs.forward_intermediates(x, intermediates_only=True)
            assert max(relative(a, b) for a, b in zip(backbone(x), expected)) <= 1e-9
            assert relative(classifier(x), theirs(x)) <= 1e-9


@pytest.mark.parametrize('ema', [None, False, True])
def test_raw_or_averaged_from_a_config(ema, working_directory, monkeypatch):
    shapes = published.classifier_shapes('m1')
    raw, averaged = published.filled(shapes, 1), published.filled(shapes, 2)
    published.save_imagenet('authors.pth', raw, averaged, monkeypatch)
    choice = {} if ema is None else {'ema': ema}
    backbone = MODELS.build(
        dict(
            type='EfficientViM',
            arch='m1',
            init_cfg=dict(type='Pretrained', checkpoint='authors.pth', **choice),
        )
    )
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, (averaged if ema else raw)[name].reshape(value.shape)), name


@pytest.mark.parametrize('form', ['safetensors', 'pth', 'hub id'])
@pytest.mark.parametrize('variant', [*ARCHS, *(f'{arch}_dist' for arch in ARCHS)])
def test_timm_there_and_back(variant, form, working_directory, monkeypatch):
    theirs = randomised(timm.create_model(f'efficientvim_{variant}')).eval()
    state, source = theirs.state_dict(), f'timm.{form}'
    if form == 'pth':
        torch.save(state, source)
    elif form == 'safetensors':
        save_file(state, source)
    else:
        source = f'timm/efficientvim_{variant}.{"" if "_dist" in variant else "e300_"}in1k'
        snapshot = Path('hub', f'models--{source.replace("/", "--")}', 'snapshots/abc')
        snapshot.mkdir(parents=True)
        (snapshot.parents[1] / 'refs').mkdir()
        (snapshot.parents[1] / 'refs/main').write_text('abc')
        save_file(state, snapshot / 'model.safetensors')
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', 'hub')
        monkeypatch.setattr('huggingface_hub.file_download.HF_HUB_CACHE', 'hub', raising=False)
    printed = call(source, 'ours.safetensors')
    assert rows(printed)['reshaped'] == rows(printed)['renamed'] == '0'
    written = load_file('ours.safetensors')
    assert written.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in written.items())
    ours = EfficientViM(variant[:2]).double().eval()
    weights.load_backbone(ours, 'ours.safetensors')
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs.double().forward_intermediates(x, intermediates_only=True)
        assert max(relative(a, b) for a, b in zip(ours(x), expected)) <= 1e-9


def test_a_hub_id_without_network_or_cache(capsys, working_directory, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', 'hub')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    message = error(capsys, 'timm/efficientvim_m3_dist.in1k', 'ours.safetensors')
    assert 'hf download timm/efficientvim_m3_dist.in1k model.safetensors' in message
    assert 'path instead of the id' in message
    assert 'timm/efficientvim_m{1..4}.e450_in1k' in error(
        capsys, 'timm/efficientvim_m5.in1k', 'ours.safetensors'
    )


def dataset_meta(task):
    """Class names and colours as mmdet and mmseg have them."""
    if task == 'semfpn':
        from mmseg.datasets import ADE20KDataset as Dataset
    else:
        from mmdet.datasets import CocoDataset as Dataset
    return Dataset.METAINFO['classes'], Dataset.METAINFO['palette']


def built(config, path):
    """The config's model with a file's weights, by mmdet's or mmseg's own function."""
    from mmdet.apis import init_detector
    from mmseg.apis import init_model

    cfg = Config.fromfile(config)
    build = init_model if cfg.default_scope == 'mmseg' else init_detector
    return build(cfg, path, device='cpu').eval()


@pytest.mark.parametrize('config', CONFIGS, ids=lambda p: p.stem)
def test_detectors_and_segmentors(config, working_directory):
    """Nothing missing, nothing ignored, equal outputs, class names kept."""
    task, _, variant = config.stem.partition('_effvim_')
    text, num_classes, _ = TASKS[task]
    state = published.filled(published.model_shapes(text, variant, num_classes))
    package, version = ('mmseg', '0.30.0+') if task == 'semfpn' else ('mmdet', '2.25.0+')
    classes, palette = dataset_meta(task)
    published.save_openmmlab('authors.pth', state, package, version, classes, palette)

    printed = call('authors.pth', 'ours.safetensors')
    title = {'retinanet': 'RetinaNet', 'mask_rcnn': 'Mask R-CNN', 'semfpn': 'Semantic FPN'}[task]
    assert (
        f'ours.safetensors: {title}, EfficientViM-{variant.upper()}, {num_classes} class names'
        in printed
    )
    assert f'a checkpoint of {package} {version}' in printed
    norms = 0 if task == 'semfpn' else 6
    assert rows(printed)['renamed'] == str(norms)
    assert rows(printed)['reshaped'] == str(2 * sum(published.VARIANTS[variant][1]) + norms)
    content = checkpoint.read('ours.safetensors')
    assert checkpoint.classes_of(content) == tuple(classes)

    model = built(config, 'ours.safetensors')
    assert tuple(model.dataset_meta['classes']) == tuple(classes)
    own = {name: value.shape for name, value in model.state_dict().items()}
    assert own == {name: value.shape for name, value in content['state_dict'].items()}
    model.double()
    state = {name: value.double() for name, value in state.items()}
    backbone = timm_of(
        variant,
        {
            name.removeprefix('backbone.'): value
            for name, value in state.items()
            if name.startswith('backbone.')
        },
    )
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        maps = backbone.forward_intermediates(x, intermediates_only=True)
        features = model.extract_feat(x)
        if task == 'semfpn':
            expected = published.semantic_fpn(state, maps)
            assert relative(model.decode_head(features), expected) <= 1e-9
            return
        levels = published.detection_neck(state, maps)
        strides = {'retinanet': (8, 16, 32, 64, 128), 'mask_rcnn': (4, 8, 16, 32, 64)}[task]
        assert [f.shape[2] for f in features] == [-(-64 // stride) for stride in strides]
        assert len(features) == len(levels)
        assert max(relative(a, b) for a, b in zip(features, levels)) <= 1e-9
        head, restated = {
            'retinanet': ('bbox_head', published.retina_head),
            'mask_rcnn': ('rpn_head', published.rpn_head),
        }[task]
        for got, level in zip(zip(*getattr(model, head)(features)), levels):
            for a, b in zip(got, restated(state, level)):
                assert relative(a, b) <= 1e-9
        if task == 'mask_rcnn':
            x = torch.randn(3, 256, 7, 7, dtype=torch.float64)
            for got, expected in zip(model.roi_head.bbox_head(x), published.box_head(state, x)):
                assert relative(got, expected) <= 1e-9
            x = torch.randn(3, 256, 14, 14, dtype=torch.float64)
            assert relative(model.roi_head.mask_head(x), published.mask_head(state, x)) <= 1e-9
            # what this test would notice: the two finer levels the other way round
            for tensor in ('weight', 'bias'):
                one, two = (f'neck.extra_fpn_convs.{i}.conv.{tensor}' for i in (0, 1))
                state[one], state[two] = state[two], state[one]
            reversed_levels = published.detection_neck(state, maps)
            assert all(relative(features[i], reversed_levels[i]) > 0.1 for i in (0, 1))


def test_a_backbone_out_of_a_detector(working_directory):
    """`prefix` in a config reads the authors' detectors without a conversion."""
    state = published.filled(published.model_shapes(published.RETINANET, 'm1', 80))
    published.save_openmmlab('authors.pth', state, 'mmdet', '2.25.0', ('cat',), None)
    backbone = MODELS.build(
        dict(
            type='EfficientViM',
            arch='m1',
            init_cfg=dict(type='Pretrained', checkpoint='authors.pth', prefix='backbone'),
        )
    )
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[f'backbone.{name}'].reshape(value.shape))


def test_evaluation_of_a_converted_detector(working_directory, capsys):
    """The authors' file as such is refused with a hint; converted, test.py counts it."""
    synthetic.draw_coco(working_directory / 'coco', num_train=1, num_val=2)
    classes = [
        c['name']
        for c in json.loads(Path('coco/annotations/instances_val2017.json').read_text())[
            'categories'
        ]
    ]
    state = published.filled(published.model_shapes(published.RETINANET, 'm1', len(classes)))
    published.save_openmmlab('authors.pth', state, 'mmdet', '2.25.0', tuple(classes), None)
    argv = [
        str(ROOT / 'configs/retinanet_effvim_m1.py'),
        'authors.pth',
        '--data-root',
        'coco',
        '--work-dir',
        'out',
        '--out',
        'metrics.json',
    ]
    assert run_command('test', argv) == 2
    assert 'effvim convert' in capsys.readouterr().err
    call('authors.pth', 'ours.safetensors')
    argv[1] = 'ours.safetensors'
    assert run_command('test', argv) == 0
    assert len(json.loads(Path('metrics.json').read_text())) == 12

    save_file(load_file('ours.safetensors'), 'bare.safetensors')  # without its metadata
    content = checkpoint.read('bare.safetensors')
    assert content['meta'] == {} and len(content['state_dict']) == len(state)


def test_our_own_checkpoints(working_directory):
    """What is evaluated by default, or the raw weights; options keep their types."""
    network = EfficientViM('m2')
    averaged = ExponentialMovingAverage(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 1
    hook = EMAHook()
    hook.src_model, hook.ema_model = network, averaged
    about = {
        'config': 'x.py',
        'overlays': ['from_scratch'],
        'data_root': None,
        'format': 1,
        'options': {'test_pipeline.1.scale': (128, 96), 'a': [1.5, None, 'b']},
        'began': '',
    }
    content = {
        'state_dict': network.state_dict(),
        'optimizer': {'state': {}},
        'meta': {'effvim': about, 'dataset_meta': {'classes': ('cat', 'dog')}},
    }
    hook.before_save_checkpoint(None, content)
    content['state_dict'] = {
        n: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v
        for n, v in content['state_dict'].items()
    }
    torch.save(content, 'epoch_1.pth')

    gates = 'stages.0.blocks.0.alpha'
    for flags, expected in (([], 1e-4), (['--ema'], 1e-4), (['--raw'], 1 + 1e-4)):
        printed = call('epoch_1.pth', 'ours.safetensors', *flags)
        assert 'backbone, EfficientViM-M2, 2 class names' in printed
        assert 'optimizer' in printed
        read = checkpoint.read('ours.safetensors')
        assert read['state_dict'].keys() == network.state_dict().keys()
        assert torch.allclose(read['state_dict'][gates], torch.full((4, 128), expected))
        assert checkpoint.describe(read) == about
        assert checkpoint.classes_of(read) == ('cat', 'dog')
    again = call('ours.safetensors', 'again.safetensors')
    assert 'EfficientViM-M2, 2 class names' in again
    assert Path('again.safetensors').read_bytes() == Path('ours.safetensors').read_bytes()


def test_stages_and_widths_of_ones_own(working_directory):
    arch = dict(widths=(64, 96), depths=(1, 2), state_dims=(16, 8))
    for network, name in (
        (EfficientViM(arch, (0, 1)), "'widths': (64, 96)"),
        (EfficientViM('m4', out_indices=(0, 1)), 'EfficientViM-M4'),
    ):
        torch.save({'state_dict': network.state_dict()}, 'own.pth')
        assert name in call('own.pth', 'ours.safetensors')


def test_what_old_files_lack_and_what_has_no_place(working_directory):
    """BN's counters are added; a classifier inside a detector is dropped; both are reported."""
    state = published.filled(published.model_shapes(published.SEMFPN, 'm1', 150))
    counters = [name for name in state if name.endswith('num_batches_tracked')]
    for name in counters:
        del state[name]
    state['backbone.heads.0.weight'] = torch.ones(1000, 128)
    torch.save({'state_dict': state}, 'old.pth')
    printed = call('old.pth', 'ours.safetensors')
    assert rows(printed)['added'] == str(len(counters)) and rows(printed)['dropped'] == '1'
    assert 'backbone.heads.*.weight' in printed
    assert (
        load_file('ours.safetensors').keys()
        == published.model_shapes(published.SEMFPN, 'm1', 150).keys()
    )


def test_a_score_of_an_older_numpy(working_directory):
    """NumPy 1 pickled its numbers under another module's name."""
    import numpy as np

    state = published.filled(published.classifier_shapes('m1'))
    torch.save(
        {'model': state, 'max_accuracy': np.float64(72.9)},
        'a.pth',
        _use_new_zipfile_serialization=False,
    )
    content = Path('a.pth').read_bytes()
    assert b'numpy._core.multiarray' in content
    Path('a.pth').write_bytes(content.replace(b'numpy._core.multiarray', b'numpy.core.multiarray'))
    assert weights.read('a.pth')['max_accuracy'] == 72.9
    call('a.pth', 'ours.safetensors')


class Payload:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize(
    'call, arguments, name',
    [
        (os.mkdir, ('ran',), 'posix.mkdir'),
        (eval, ('__import__("os").mkdir("ran")',), 'asks for eval'),
        (getattr, (OrderedDict, 'mro'), 'getattr'),  # allowed for mmengine's log buffers alone
    ],
)
@pytest.mark.parametrize('where', ['config', 'meta', 'state_dict', 'model_ema'])
def test_code_in_a_file_does_not_run(call, arguments, name, where, working_directory, capsys):
    state = published.filled(published.classifier_shapes('m1'))
    content = {'model': state, where: {'x': Payload(call, *arguments)}}
    torch.save(content, 'evil.pth')
    message = error(capsys, 'evil.pth', 'ours.safetensors')
    assert 'evil.pth refused' in message and name in message
    assert not Path('ran').exists() and not Path('ours.safetensors').exists()


@pytest.mark.parametrize('text', ['__import__("os").mkdir("ran")', '{', '(' * 5000, '9' * 5000])
def test_metadata_is_no_code(text, working_directory, capsys):
    save_file({'a': torch.ones(1)}, 'evil.safetensors', {weights.METADATA: text})
    assert 'evil.safetensors' in error(capsys, 'evil.safetensors', 'ours.safetensors')
    assert not Path('ran').exists()


@pytest.mark.parametrize('theirs', ARCHS)
def test_weights_of_another_variant_name_it(theirs, working_directory):
    published_state = published.filled(published.classifier_shapes(theirs))
    torch.save({'model': published_state}, 'authors.pth')
    for wanted in set(ARCHS) - {theirs}:
        with pytest.raises(UserError, match=f'another variant, {theirs}'):
            weights.load_backbone(EfficientViM(wanted), 'authors.pth')


@pytest.mark.parametrize('option', ['load_from', 'model.backbone.init_cfg.checkpoint'])
def test_training_from_another_variant_ends_before_it_begins(option, working_directory, capsys):
    synthetic.draw_coco(working_directory / 'coco', num_train=2, num_val=1)
    prefix = 'backbone.' if option == 'load_from' else ''
    torch.save({'state_dict': EfficientViM('m3').state_dict(prefix=prefix)}, 'other.pth')
    argv = [
        str(ROOT / 'configs/retinanet_effvim_m4.py'),
        '--data-root',
        'coco',
        '--work-dir',
        'out',
        '--cfg-options',
        f'{option}=other.pth',
    ]
    assert run_command('train', argv) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: other.pth') and 'another variant, m3' in message


def test_files_that_are_not_recognised(working_directory, capsys):
    torch.save(timm.create_model('resnet18').state_dict(), 'resnet.pth')
    message = error(capsys, 'resnet.pth', 'ours.safetensors')
    assert 'resnet.pth' in message and 'EfficientViM' in message and 'layer1' in message
    state = published.filled(published.classifier_shapes('m3'))
    del state['stages.1.blocks.1.ffn.fc2.conv.weight']
    torch.save({'model': state}, 'incomplete.pth')
    assert 'stages.1.blocks.1.ffn.fc2.conv.weight' in error(
        capsys, 'incomplete.pth', 'ours.safetensors'
    )
    state = published.filled(published.classifier_shapes('m3'))
    torch.save({'model': {**state, 'surplus.weight': torch.ones(2)}}, 'more.pth')
    assert 'surplus.weight' in error(capsys, 'more.pth', 'ours.safetensors')
    torch.save({'model': state}, 'good.pth')
    assert '--ema' in error(capsys, 'good.pth', 'ours.safetensors', '--ema')
    torch.save({'epoch': 3}, 'empty.pth')
    assert 'empty.pth' in error(capsys, 'empty.pth', 'ours.safetensors')
    torch.save({'meta': 'text', 'model': state}, 'odd.pth')
    assert 'odd.pth' in error(capsys, 'odd.pth', 'ours.safetensors')
    torch.save([1], 'list.pth')
    assert 'list.pth' in error(capsys, 'list.pth', 'ours.safetensors')
    assert 'absent.pth' in error(capsys, 'absent.pth', 'ours.safetensors')
    assert not Path('ours.safetensors').exists()


def test_where_the_result_cannot_go(working_directory, capsys, monkeypatch):
    torch.save({'model': published.filled(published.classifier_shapes('m1'))}, 'good.pth')
    assert '.safetensors' in error(capsys, 'good.pth', 'ours.pth')
    Path('dir.safetensors').mkdir()
    assert 'dir.safetensors' in error(capsys, 'good.pth', 'dir.safetensors')
    Path('file').write_text('mine')
    assert 'DEST' in error(capsys, 'good.pth', 'file/ours.safetensors')
    call('good.pth', 'ours.safetensors')
    assert 'SOURCE' in error(capsys, 'ours.safetensors', './ours.safetensors')
    assert '--help' in error(capsys, 'good.pth', 'ours.safetensors', '--ema', '--raw')

    before = Path('ours.safetensors').read_bytes()
    torch.save({'model': published.filled(published.classifier_shapes('m2'))}, 'other.pth')

    def full(handle):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr('os.fsync', full)
        assert 'No space left' in error(capsys, 'other.pth', 'ours.safetensors')
    assert Path('ours.safetensors').read_bytes() == before
    assert sorted(p.name for p in working_directory.iterdir() if p.name.startswith('.')) == []
    assert 'EfficientViM-M2' in call('other.pth', 'ours.safetensors')
    assert Path('ours.safetensors').read_bytes() != before


def test_as_a_process(working_directory):
    torch.save({'model': published.filled(published.classifier_shapes('m1'))}, 'good.pth')
    tool = str(ROOT / 'tools/convert_weights.py')
    done = subprocess.run(
        [sys.executable, tool, 'good.pth', 'sub/ours.safetensors'], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stderr == '', done.stderr
    assert 'sub/ours.safetensors: classifier, EfficientViM-M1, no class names' in done.stdout
    done = subprocess.run(
        [sys.executable, tool, 'absent.pth', 'ours.safetensors'], capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith('error: weights absent.pth not found')
