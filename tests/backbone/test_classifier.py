"""The classifier against timm's port, and its evaluation against plain Pillow and NumPy."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from backbone import ARCHS, EfficientViM, EfficientViMClassifier, UserError, imagenet
from tests.helpers.cli import run_command
from tests.helpers.networks import randomised, relative

# Facts of the published classifiers: parameters with 1000 classes, without and with distillation.
PARAMETERS = {
    ('m1', False): 6_679_458,
    ('m1', True): 7_643_462,
    ('m2', False): 13_903_842,
    ('m2', True): 15_315_846,
    ('m3', False): 16_604_174,
    ('m3', True): 18_176_178,
    ('m4', False): 19_606_505,
    ('m4', True): 21_178_509,
}
SIZES = {'m1': 224, 'm2': 224, 'm3': 224, 'm4': 256}
models = pytest.mark.parametrize(
    ('arch', 'distillation'), PARAMETERS, ids=lambda v: v if isinstance(v, str) else 'dist' * v
)


def pair(arch, distillation, **kwargs):
    """Ours and timm's with the same randomised weights, in evaluation mode."""
    theirs = timm.create_model(f'efficientvim_{arch}' + '_dist' * distillation)
    ours = EfficientViMClassifier(arch, distillation=distillation, **kwargs)
    ours.load_state_dict(randomised(theirs).state_dict())
    return ours.eval(), theirs.eval()


def own_names(distillation):
    """The tensors of published classifiers, without those of the stem and the stages."""
    names = {'weights'} | {
        f'{module}.{i}.{tensor}'
        for module in ('norm', 'heads')
        for i in range(4)
        for tensor in ('weight', 'bias')
    }
    if distillation:
        names |= {'weights_dist'} | {
            n.replace('heads', 'heads_dist') for n in names if n.startswith('heads')
        }
    return names


def test_every_variant_is_here():
    assert {arch for arch, _ in PARAMETERS} == set(ARCHS)
    assert imagenet.IMAGE_SIZES == SIZES


@models
def test_logits_equal_timm(arch, distillation):
    ours, theirs = pair(arch, distillation)
    for height, width in [(SIZES[arch], SIZES[arch]), (97, 130)]:
        x = torch.randn(2, 3, height, width)
        with torch.no_grad():
            assert ours(x).shape == (2, 1000)
            assert relative(ours(x), theirs(x)) <= 1e-5


@models
def test_logits_in_training_equal_timm(arch, distillation):
    ours, theirs = pair(arch, distillation)
    if distillation:
        theirs.set_distilled_training(True)
    ours.double().train()
    theirs.double().train()
    x = torch.randn(3, 3, 96, 130, dtype=torch.float64)
    logits, expected = ours(x), theirs(x)
    if not distillation:
        logits, expected = (logits,), (expected,)
    assert len(logits) == len(expected) == 1 + distillation
    for a, b in zip(logits, expected):
        assert relative(a, b) <= 1e-9


@pytest.mark.parametrize('arch', ARCHS)
def test_distillation_gives_two_in_training_and_their_mean_in_evaluation(arch):
    # with frozen statistics nothing else differs between the two modes
    network = randomised(EfficientViMClassifier(arch, 10, distillation=True, norm_eval=True))
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        labels, teacher = network.train()(x)
        assert relative(labels, teacher) > 0.1
        assert relative(network.eval()(x), torch.stack([labels, teacher]).mean(0)) <= 1e-6


@models
def test_cancelled_parameter_changes_nothing(arch, distillation):
    network = randomised(EfficientViMClassifier(arch, 10, distillation)).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        before = network(x)
        changed = [
            nn.init.uniform_(p, -50, 50)
            for n, p in network.named_parameters()
            if n.endswith('mixer.A')
        ]
        assert len(changed) == sum(ARCHS[arch]['depths'])
        assert torch.equal(network(x), before)


@models
def test_parameters_and_their_start(arch, distillation):
    network = EfficientViMClassifier(arch, distillation=distillation)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[arch, distillation]
    own = {n: p for n, p in network.named_parameters() if n in own_names(distillation)}
    for name, value in own.items():
        if name.startswith('heads') and name.endswith('weight'):
            assert value.std().item() == pytest.approx(0.02, rel=0.02)
            assert abs(value.mean()) < 1e-3 and value.abs().max() <= 2
        else:
            assert value.eq(0 if name.endswith('bias') else 1).all(), name


@models
def test_state_dicts_load_across(arch, distillation):
    extractor = EfficientViM(arch)
    classifier = randomised(EfficientViMClassifier(arch, 10, distillation))
    keys = extractor.load_state_dict(classifier.state_dict(), strict=False)
    assert not keys.missing_keys and set(keys.unexpected_keys) == own_names(distillation)
    other = EfficientViMClassifier(arch, 10, distillation)
    keys = other.load_state_dict(extractor.state_dict(), strict=False)
    assert not keys.unexpected_keys and set(keys.missing_keys) == own_names(distillation)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, _ = classifier.eval().forward_stages(x)
        for network in (extractor, other):
            maps, _ = network.eval().forward_stages(x)
            assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


@models
def test_gradients_reach_every_parameter_but_the_cancelled_one(arch, distillation):
    network = randomised(EfficientViMClassifier(arch, 10, distillation)).train()
    logits = network(torch.randn(2, 3, 128, 160))
    nn.functional.cross_entropy(
        torch.cat(logits) if distillation else logits, torch.arange(2 + 2 * distillation)
    ).backward()
    idle = {n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == {n for n, _ in network.named_parameters() if n.endswith('mixer.A')}


def test_checkpointing_and_stochastic_depth():
    results = []
    for with_cp, rate in [(False, 0.3), (True, 0.3), (False, 0.0)]:
        torch.manual_seed(5)
        network = randomised(EfficientViMClassifier('m1', 10, with_cp=with_cp, drop_path_rate=rate))
        calls = []
        network.stages[1].blocks[0].register_forward_pre_hook(lambda *_, c=calls: c.append(1))
        x = torch.randn(4, 3, 64, 96, dtype=torch.float64)
        network.double().train()(x).square().sum().backward()
        assert len(calls) == 1 + with_cp
        results.append({n: p.grad for n, p in network.named_parameters() if p.requires_grad})
    plain, recomputed, without = results
    assert all(torch.allclose(g, recomputed[n], rtol=1e-9, atol=1e-12) for n, g in plain.items())
    assert any(not torch.allclose(g, without[n]) for n, g in plain.items())


def test_frozen_stages_leave_the_fusion_to_train():
    network = EfficientViMClassifier('m1', 10, distillation=True, frozen_stages=3).train()
    assert {n for n, p in network.named_parameters() if p.requires_grad} == own_names(True)


@pytest.mark.parametrize(
    'arguments', [dict(num_classes=-1), dict(arch='m5'), dict(frozen_stages=4)], ids=str
)
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        EfficientViMClassifier(**arguments)


def test_arch_of_ones_own():
    arch = dict(widths=(32, 48), depths=(1, 2), state_dims=(4, 9))
    network = EfficientViMClassifier(arch, 5)
    assert network(torch.randn(2, 3, 70, 50)).shape == (2, 5) and len(network.heads) == 3


def prepared(path, size):
    """Bicubic to size / 0.875 on the shorter side, the centre, ImageNet's statistics: 3 H W."""
    image = Image.open(path).convert('RGB')
    shorter = int(size / 0.875)
    scale = shorter / min(image.size)
    width, height = (int(side * scale + 1e-6) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    pixels = pixels[top : top + size, left : left + size] / 255
    return ((pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)


@pytest.mark.parametrize('size', [64, 224, 256])
def test_images_are_prepared_as_published(imagenet_root, size):
    files = sorted(imagenet_root.glob('*/*'))
    dataset = imagenet.image_folder(imagenet_root, size)
    assert len(dataset) == len(files) == 21
    for file, (image, label) in zip(files, dataset):
        assert label == int(file.parent.name[1:])
        assert np.abs(image.numpy() - prepared(file, size)).max() <= 1e-5


def undecided(arch, files, size):
    """A classifier of seven classes, without a preference for any, on average over the files."""
    network = randomised(EfficientViMClassifier(arch, 7)).eval()
    with torch.no_grad():
        x = torch.from_numpy(np.stack([prepared(file, size) for file in files])).float()
        network.heads[3].bias -= network(x).mean(0) / network.weights.softmax(0)[3]
    return network


def test_accuracy_equals_plain_counting(imagenet_root):
    files = sorted(imagenet_root.glob('*/*'))
    network = undecided('m1', files, 64)
    orders, ranks = [], []
    for file in files:
        logits = network(torch.from_numpy(prepared(file, 64)).float()[None])
        orders.append(np.argsort(-logits.detach().numpy()[0]).tolist())
        ranks.append(orders[-1].index(int(file.parent.name[1:])))
    expected = [100 * np.mean(np.array(ranks) < k) for k in (1, 5)]
    assert len({order[0] for order in orders}) > 3 and 0 < expected[0] < expected[1] < 100
    calls = []
    result = imagenet.evaluate(
        network.train(),
        imagenet_root,
        64,
        batch_size=4,
        workers=0,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(4, 21), (8, 21), (12, 21), (16, 21), (20, 21), (21, 21)]
    assert [result['top1'], result['top5']] == pytest.approx(expected, abs=1e-9)
    assert result['images'] == 21


def test_fewer_than_five_classes(tmp_path):
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        Image.new('RGB', (40, 50), (80 * i, 9, 9)).save(tmp_path / str(i) / 'a.bmp')
    result = imagenet.evaluate(EfficientViMClassifier('m1', 3), tmp_path, 32, workers=0)
    assert result['top5'] == 100 and result['top1'] < 100


@models
def test_a_file_says_which_classifier_it_is(arch, distillation, tmp_path):
    theirs = randomised(
        timm.create_model(f'efficientvim_{arch}' + '_dist' * distillation, num_classes=9)
    ).eval()
    save_file(theirs.state_dict(), tmp_path / 'm.safetensors')
    ours = imagenet.classifier_from(tmp_path / 'm.safetensors').eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert relative(ours(x), theirs(x)) <= 1e-5


@pytest.mark.parametrize('arch', ['m1', 'm4'])
def test_command(arch, imagenet_root, tmp_path, capsys):
    """The size of the variant, and raw or averaged weights as asked for."""
    files = sorted(imagenet_root.glob('*/*'))
    networks = [undecided(arch, files, SIZES[arch]) for _ in range(2)]
    lines = []
    for network in networks:
        result = imagenet.evaluate(network, imagenet_root, SIZES[arch], workers=0)
        lines.append(f'top-1 {result["top1"]:.2f}, top-5 {result["top5"]:.2f} on 21 images\n')
    other = imagenet.evaluate(network, imagenet_root, 480 - SIZES[arch], workers=0)
    assert lines[0] != lines[1] and other != result  # otherwise these images would show nothing
    assert imagenet.evaluate(copy.deepcopy(network).fuse(), imagenet_root, workers=0) == result
    raw, averaged = (network.state_dict() for network in networks)
    torch.save(dict(model=raw, model_ema=averaged), tmp_path / 'checkpoint.pth')
    for flags, line in [((), lines[0]), (('--ema', '--batch-size=5'), lines[1])]:
        argv = [str(tmp_path / 'checkpoint.pth'), str(imagenet_root), '--workers=0', *flags]
        assert run_command('imagenet', argv) == 0
        assert capsys.readouterr().out == line


def spoil(how, path):
    """A root with one thing wrong, and what the message must say."""
    if how == 'absent':
        return path / 'val', 'val is not a folder'
    if how == 'flat':
        Image.new('RGB', (40, 40)).save(path / 'a.png')
        return path, 'no class folders'
    for i in range(6 if how == 'classes' else 7):
        (path / f'class{i}').mkdir()
        if how != 'empty' or i != 4:
            Image.new('RGB', (40, 40)).save(path / f'class{i}' / 'a.png')
    if how == 'classes':
        return path, '6 class folders, the classifier has 7'
    if how == 'empty':
        (path / 'class4' / 'readme.txt').write_text('no image')
        return path, '1 of 7 class folders have no images, the first is class4'
    (path / 'class3' / 'b.png').write_bytes(
        dict(truncated=(path / 'class3' / 'a.png').read_bytes()[:60], text=b'no image')[how]
    )
    return path, 'class3/b.png cannot be read as an image'


@pytest.mark.parametrize('how', ['absent', 'flat', 'classes', 'empty', 'truncated', 'text'])
def test_wrong_folders_are_named(how, tmp_path):
    root, message = spoil(how, tmp_path)
    workers = int(how == 'text')  # an error out of another process is the same
    with pytest.raises(UserError, match=message):
        imagenet.evaluate(EfficientViMClassifier('m1', 7), root, 32, workers=workers)


@pytest.mark.parametrize('numbers', [dict(image_size=16), dict(batch_size=0), dict(workers=-1)])
def test_wrong_numbers_are_named(numbers, imagenet_root):
    with pytest.raises(UserError, match=next(iter(numbers))):
        imagenet.evaluate(EfficientViMClassifier('m1', 7), imagenet_root, **numbers)


def test_files_without_a_classifier(tmp_path):
    save_file(EfficientViM('m1').state_dict(), tmp_path / 'm.safetensors')
    with pytest.raises(UserError, match='m.safetensors holds no EfficientViM classifier.* heads'):
        imagenet.classifier_from(tmp_path / 'm.safetensors')
    save_file({'a.weight': torch.ones(2)}, tmp_path / 'm.safetensors')
    with pytest.raises(UserError, match='m.safetensors holds no EfficientViM classifier.* stages'):
        imagenet.classifier_from(tmp_path / 'm.safetensors')


def test_as_a_process_a_mistake_is_one_line(tmp_path):
    command = [sys.executable, '-m', 'effvim', 'imagenet', tmp_path / 'no.pth', tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith('error: weights ') and done.stderr.count('\n') == 1
