"""Every mistake of a user: one line on stderr, status 2, nothing lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backbone import UserError
from effvim.cli import main
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

CONFIG = str(ROOT / 'configs/retinanet_effvim_m1.py')
TRAIN, VAL = (f'annotations/instances_{s}2017.json' for s in ('train', 'val'))

pytestmark = pytest.mark.usefixtures('offline')


def error(capsys, argv, command='train'):
    """Run a command that must fail as a user's mistake before mmdet is imported."""
    loaded = 'mmdet.models' in sys.modules
    status = run_command(command, argv)
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert status == 2 and len(lines) == 1 and lines[0].startswith('error: '), captured
    assert ('mmdet.models' in sys.modules) == loaded
    return lines[0]


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def scratch(root, *more):
    return [CONFIG, '--from-scratch', '--data-root', str(root), '--work-dir', 'out', *more]


def test_data_root_absent(capsys):
    message = error(capsys, scratch('nowhere'))
    for words in ('nowhere', TRAIN, 'val2017/', '--mini', '--data-root'):
        assert words in message
    assert not Path('out').exists()


@pytest.mark.parametrize('command', ['export', 'demo', 'check'])
def test_help_does_not_show_a_flag_that_is_refused(command, capsys):
    with pytest.raises(SystemExit):
        main.parse([command, '--help'])
    text = capsys.readouterr().out
    assert '--cfg-options' in text and '--launcher' not in text


def test_weights_absent(capsys, root):
    argv = [word for word in scratch(root) if word != '--from-scratch']
    assert 'cannot be fetched' in error(capsys, argv)
    assert not Path('out').exists()


@pytest.mark.parametrize('which', [TRAIN, VAL])
def test_annotation_file_absent(capsys, root, which):
    (root / which).unlink()
    assert which in error(capsys, scratch(root))


@pytest.mark.parametrize('content', [b'', b'{"images": [', b'\xff\xfe\x00', b'[]', b'{}', b'3'])
def test_not_an_annotation_file(capsys, root, content):
    (root / TRAIN).write_bytes(content)
    assert TRAIN in error(capsys, scratch(root))


@pytest.mark.parametrize('key', ['images', 'annotations', 'categories'])
def test_a_list_is_absent(capsys, root, key):
    edit(root / TRAIN, lambda c: c.pop(key))
    assert key in error(capsys, scratch(root))


@pytest.mark.parametrize(
    'key, field',
    [
        ('images', 'file_name'),
        ('images', 'height'),
        ('annotations', 'bbox'),
        ('categories', 'name'),
    ],
)
def test_an_item_lacks_a_field(capsys, root, key, field):
    edit(root / TRAIN, lambda c: c[key][1].pop(field))
    message = error(capsys, scratch(root))
    assert f'{key}[1]' in message and field in message


@pytest.mark.parametrize('box', [[1, 2], None, [1, 2, 3, 'x'], [1, 2, 3, float('nan')]], ids=str)
def test_a_box_that_is_none(capsys, root, box):
    edit(root / TRAIN, lambda c: c['annotations'][2].update(bbox=box))
    assert 'annotations[2].bbox' in error(capsys, scratch(root))


def test_all_images_too_small(capsys, root):
    edit(root / TRAIN, lambda c: [i.update(height=20) for i in c['images']])
    assert '32 pixels' in error(capsys, scratch(root))


def test_no_categories(capsys, root):
    edit(root / TRAIN, lambda c: c['categories'].clear())
    assert 'categories' in error(capsys, scratch(root))


def test_categories_foreign_to_the_config(capsys, root, tmp_path):
    config = tmp_path / 'zebra.py'
    config.write_text(
        f"_base_ = '{CONFIG}'\n"
        "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('disc', "
        "'zebra'))))\n"
    )
    message = error(capsys, [str(config), *scratch(root)[1:]])
    assert "'zebra'" in message and "'triangle'" in message and TRAIN in message


def test_categories_differ_between_training_and_validation(capsys, root):
    edit(root / VAL, lambda c: c['categories'].reverse())
    assert 'same order' in error(capsys, scratch(root))


def test_images_missing(capsys, root):
    gone = sorted((root / 'train2017').iterdir())[:6]
    for path in gone:
        path.unlink()
    message = error(capsys, scratch(root))
    assert '6 of 6' in message and all(path.name in message for path in gone[:5])
    assert gone[5].name not in message
    shutil.rmtree(root / 'train2017')
    assert '6 of 6' in error(capsys, scratch(root))


@pytest.mark.parametrize('which', [TRAIN, VAL])
def test_no_annotation_at_all(capsys, root, which):
    edit(root / which, lambda c: c['annotations'].clear())
    message = error(capsys, scratch(root))
    assert which in message and 'no annotation' in message


@pytest.mark.parametrize(
    'text',
    [None, 'x = 1', 'this is not python', 'import nonsense_module', "_base_ = 'absent.py'", '\x00'],
)
def test_not_a_config(capsys, root, text):
    path = Path('mine.py')
    if text is not None:
        path.write_text(text)
    assert 'mine.py' in error(capsys, ['mine.py', *scratch(root)[1:]])


@pytest.mark.parametrize(
    'option, expected',
    [
        ('model.backbone.arch=m7', ['m7', 'm1, m2, m3, m4']),
        ('model.backbone.out_indices=[0,5]', ['out_indices', '(0, 5)']),
        ('model.backbone.out_indices=[0,1]', ['[128, 192, 320]', '[128, 192]']),
        (
            'model.neck.in_channels=[1,2,3]',
            ['[1, 2, 3]', '[128, 192, 320]', 'model.neck.in_channels'],
        ),
        ('train_cfg.max_epoch=3', ["'train_cfg.max_epochs'", '+train_cfg.max_epoch']),
        ('nonsense', ['KEY=VALUE', 'nonsense']),
        ('=3', ['KEY=VALUE']),
        ('train_pipeline.2.scale=(9,9)', ["'train_dataloader.dataset.pipeline.2.scale'"]),
        ('train_dataloader.dataset.pipeline.2.scale=(9,9', ['Imbalanced']),
        ('param_scheduler.1.milestones.0=3', ['param_scheduler.1.milestones']),
        ('model.backbone.out_indices=1', ['out_indices', '1']),
        ('model.backbone.arch=5', ['arch', '5']),
        ('model.backbone=None', ['model.backbone']),
        ('train_dataloader=None', ['train_dataloader']),
        ('model.neck.in_channels=224', ['224', 'model.neck.in_channels']),
        ('+model.backbone.depth=50', ["'depth'", 'frozen_stages']),
        ('load_from=absent.pth', ['absent.pth']),
    ],
)
def test_options(capsys, root, option, expected):
    message = error(capsys, scratch(root, '--cfg-options', option))
    assert all(words in message for words in expected), message


def test_weights_that_cannot_be_fetched(capsys, root, monkeypatch, tmp_path):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'hub'))
    argv = [a for a in scratch(root) if a != '--from-scratch']
    message = error(capsys, argv)
    assert 'timm/efficientvim_m1.e450_in1k' in message and '--from-scratch' in message


def test_work_dir_not_writable(capsys, root):
    Path('file').write_text('mine')
    message = error(
        capsys, [CONFIG, '--from-scratch', '--data-root', str(root), '--work-dir', 'file/below']
    )
    assert 'file/below' in message and '--work-dir' in message
    assert Path('file').read_text() == 'mine'


def test_options_given_twice_both_count(capsys, root):
    message = error(
        capsys,
        scratch(root, '--cfg-options', 'nonsense.key=1', '--cfg-options', 'train_cfg.max_epochs=1'),
    )
    assert 'nonsense.key' in message


def test_an_earlier_runs_checkpoints_are_kept(capsys, root):
    Path('out').mkdir()
    Path('out/epoch_3.pth').write_text('mine')
    assert '--resume' in error(capsys, scratch(root))
    assert Path('out/epoch_3.pth').read_text() == 'mine'


@pytest.mark.parametrize(
    'content', [{}, {'meta': {}}, {'meta': 'text'}, {'optimizer': {}}, {'state_dict': [1]}], ids=str
)
def test_resuming_from_weights_alone(capsys, root, content):
    torch.save({'state_dict': checkpoint_of('m1'), **content}, 'weights.pth')
    assert 'weights.pth' in error(capsys, scratch(root, '--resume', 'weights.pth'))


def test_resuming_a_finished_run(capsys, root):
    torch.save(
        {'state_dict': checkpoint_of('m1'), 'optimizer': {}, 'meta': {'epoch': 12, 'iter': 24}},
        'epoch_12.pth',
    )
    assert 'max_epochs' in error(capsys, scratch(root, '--resume', 'epoch_12.pth'))


def test_nothing_to_resume(capsys, root):
    assert 'out' in error(capsys, scratch(root, '--resume'))
    assert 'gone.pth' in error(capsys, scratch(root, '--resume', 'gone.pth'))


def test_mini_with_a_data_root(capsys, root):
    assert '--data-root' in error(capsys, [CONFIG, '--mini', '--data-root', str(root)])


def test_mini_keeps_a_folder_of_somebody_else(capsys):
    path = Path('data/mini-coco/precious.txt')
    path.parent.mkdir(parents=True)
    path.write_text('mine')
    assert 'data/mini-coco' in error(capsys, [CONFIG, '--mini'])
    assert path.read_text() == 'mine'


@pytest.mark.parametrize('argv', [[], ['--nonsense'], [CONFIG, '--launcher', 'magic']], ids=str)
def test_command_line(capsys, argv):
    assert '--help' in error(capsys, argv)


def test_amp_where_it_does_not_pay(capsys, root, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    monkeypatch.setattr('torch.cpu._is_avx512_bf16_supported', lambda: False)
    assert '--amp' in error(capsys, scratch(root, '--amp'))


def checkpoint_of(arch):
    from backbone import EfficientViM

    return {f'backbone.{n}': v for n, v in EfficientViM(arch).state_dict().items()}


@pytest.mark.parametrize(
    'how', ['absent', 'empty', 'truncated', 'rubbish', 'list', 'variant', 'not ours']
)
def test_checkpoint(capsys, root, how):
    path = Path('ckpt.pth')
    if how in ('variant', 'not ours'):
        state = checkpoint_of('m2') if how == 'variant' else {'backbone.conv.weight': torch.ones(1)}
        torch.save({'state_dict': state, 'optimizer': {}, 'meta': {'epoch': 1, 'iter': 1}}, path)
    elif how == 'list':
        torch.save([1, 2], path)
    elif how != 'absent':
        torch.save({'state_dict': checkpoint_of('m1')}, path)
        whole = path.read_bytes()
        path.write_bytes({'empty': b'', 'truncated': whole[:-9999], 'rubbish': b'\x80junk'}[how])
    for command, argv in (
        ('test', [CONFIG, str(path), '--data-root', str(root)]),
        ('train', scratch(root, '--resume', str(path))),
    ):
        message = error(capsys, argv, command)
        assert 'ckpt.pth' in message
        if how == 'variant':
            assert 'm2' in message and 'm1' in message


def test_checkpoint_of_other_classes(capsys, root):
    torch.save(
        {'state_dict': checkpoint_of('m1'), 'meta': {'dataset_meta': {'classes': ('cat', 'dog')}}},
        'c.pth',
    )
    message = error(capsys, [CONFIG, 'c.pth', '--data-root', str(root)], 'test')
    assert 'cat' in message and 'disc' in message and 'load_from' in message


def spec_of_before(**changes):
    return {
        'format': 1,
        'config': 'x.py',
        'overlays': [],
        'data_root': None,
        'options': {},
        'began': '',
        **changes,
    }


@pytest.mark.parametrize(
    'flags, made, expected',
    [
        (['--mini'], {}, '--mini'),
        (['--from-scratch'], {}, '--from-scratch'),
        (['--data-root', 'x'], {'overlays': ['from_scratch', 'mini']}, 'synthetic'),
    ],
)
def test_flags_that_contradict_the_checkpoint(capsys, flags, made, expected):
    torch.save(
        {'state_dict': checkpoint_of('m1'), 'meta': {'effvim': spec_of_before(**made)}}, 'c.pth'
    )
    assert expected in error(capsys, [CONFIG, 'c.pth', *flags], 'test')


@pytest.mark.parametrize(
    'flag, value', [('--out', '.'), ('--out', 'file/m.json'), ('--show-dir', 'file/shown')]
)
def test_where_results_cannot_go(capsys, root, flag, value):
    Path('file').write_text('mine')
    torch.save({'state_dict': checkpoint_of('m1'), 'meta': {}}, 'c.pth')
    assert flag in error(capsys, [CONFIG, 'c.pth', '--data-root', str(root), flag, value], 'test')


@pytest.mark.parametrize('tool', ['train', 'test'])
def test_as_a_process(tool, tmp_path):
    """The real command: one line and 2; the traceback with EFFVIM_DEBUG=1."""
    argv = [sys.executable, str(ROOT / f'tools/{tool}.py'), 'absent.py']
    argv += ['c.pth'] if tool == 'test' else []
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith('error: config absent.py') and done.stderr.count('\n') == 1
    done = subprocess.run(
        argv, capture_output=True, text=True, env={**os.environ, 'EFFVIM_DEBUG': '1'}
    )
    assert done.returncode != 0 and 'Traceback' in done.stderr


@pytest.mark.parametrize(
    'words, expected',
    [
        ('infer run.pth --out d a.jpg b.jpg', ['run.pth', 'a.jpg', 'b.jpg']),
        ('infer --out d run.pth a.jpg --score-thr 0.5', ['run.pth', 'a.jpg']),
        ('infer run.pth a.jpg --out d b.jpg --json', ['run.pth', 'a.jpg', 'b.jpg']),
        ('test config.py --mini run.pth', ['config.py', 'run.pth']),
        ('export config.py --out m.onnx run.pth', ['config.py', 'run.pth']),
        ('demo config.py --port 1 a.pth b.pth', ['config.py', 'a.pth', 'b.pth']),
        ('benchmark model config.py --batch 2 run.pth', ['config.py', 'run.pth']),
    ],
)
def test_flags_may_stand_between_positional_arguments(words, expected):
    assert main.parse(words.split()).model == expected


def test_unknown_flags_between_positional_arguments_are_named():
    with pytest.raises(UserError, match=r'unrecognized arguments: --outt d a.jpg.*effvim infer'):
        main.parse(['infer', 'run.pth', '--out', 'x', '--outt', 'd', 'a.jpg'])


def test_an_exported_file_is_no_checkpoint_to_benchmark(tmp_path, capsys):
    """Its weights are not in a state dict: random ones would be measured."""
    onnx = pytest.importorskip('onnx')
    value = onnx.helper.make_tensor_value_info('images', 1, [1])
    out = onnx.helper.make_tensor_value_info('boxes', 1, [1])
    node = onnx.helper.make_node('Identity', ['images'], ['boxes'])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], 'g', [value], [out]),
        opset_imports=[onnx.helper.make_opsetid('', 18)],
        ir_version=10,
    )
    about = dict(
        effvim={'config': 'retinanet_effvim_m1.py'},
        classes=['a'],
        kind='RetinaNet',
        size=None,
        input='raw',
        settings={'model.type': 'RetinaNet', 'model.data_preprocessor': {}},
    )
    onnx.helper.set_model_props(model, {key: json.dumps(v) for key, v in about.items()})
    path = tmp_path / 'm.onnx'
    path.write_bytes(model.SerializeToString())
    assert main.run(['benchmark', 'model', 'retinanet_effvim_m1', str(path)]) == 2
    assert 'is an exported file' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'expected'),
    [
        (['run'], 'run is a directory: pass a file, e.g. run/epoch_2.pth'),
        (['photo.jpg', 'run/epoch_2.pth'], 'photo.jpg is neither a config'),
        (['run/last_checkpoint', 'photo.jpg'], 'run/last_checkpoint is neither a config'),
        (['model.onx', 'photo.jpg'], 'model.onx not found'),
        (['rtmdet_efvim_m1', 'run/epoch_2.pth'], 'e.g. rtmdet_effvim_m1'),
        (['photo.pth', 'photo.jpg'], 'not a weight file'),
        (['run/epoch_2.pth', 'photo.jpg', '--score', '0.5'], 'did you mean --score-thr?'),
    ],
)
def test_mistaken_first_arguments(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path('run').mkdir()
    for number in (1, 2):
        Path(f'run/epoch_{number}.pth').write_bytes(b'')
        os.utime(f'run/epoch_{number}.pth', (number, number))
    Path('run/last_checkpoint').write_text('run/epoch_2.pth')
    for name in ('photo.jpg', 'photo.pth'):
        Path(name).write_bytes(b'photo')
    assert expected in error(capsys, [*words, '--out', 'out'], 'infer')


def test_a_run_of_own_data_under_another_config(shapes, capsys):
    """What was fitted to RTMDet's pipeline does not fit RetinaNet's."""
    assert main.run(['data', 'split', 'shapes', 'ready']) == 0
    checkpoint = {
        'meta': {
            'effvim': {
                'format': 2,
                'config': 'rtmdet_effvim_m1.py',
                'presets': ['from_scratch'],
                'data_root': 'ready',
                'fitted': {'val_dataloader.dataset.pipeline.7.size': (64, 64)},
            }
        },
        'state_dict': {},
    }
    torch.save(checkpoint, 'epoch_1.pth')
    capsys.readouterr()
    message = error(capsys, [CONFIG, 'epoch_1.pth'], 'test')
    assert 'trained with rtmdet_effvim_m1.py' in message
