"""Every command of the site and README is run, page by page in the order of the page.

All but those that NOT_RUN names, so that a new one is run or has a reason. Small: M1 for M4, a few
drawn pictures, two steps, from random weights. The pages lay out what they start from, data/coco
and the like; what a placeholder stands for is in tests/test_docs.py. The longest
pages are marked slow.
"""

import importlib
import json
import shutil
from pathlib import Path

import pytest

from effvim.cli.main import run_main
from effvim.datasets import synthetic
from effvim.engine import training as train_tool  # noqa: F401
from tests.docs.test_site import COMMANDS, TEXTS, arguments, commands
from tests.helpers.custom_data import draw_yolo
from tests.helpers.paths import ROOT
from tests.helpers.runs import ADE, TEST, call

NOT_RUN = {  # by words in them, and why
    'torchrun ': 'several processes, see tests/test_distributed.py',
    'srun ': 'needs Slurm',
    'benchmark': 'takes minutes; tests/test_benchmark.py runs small ones',
    'backbone.imagenet': 'needs ImageNet; tests/test_classifier.py draws pictures of its layout',
    '.safetensors': 'needs what others published; tests/test_weights.py makes files of such names',
    '[--int8 PICTURES]': 'two commands of docs/deployment.md, of which each is run',
    'tools/test.py CONFIG model.onnx': 'there, too',
    'tools/demo.py': 'serves until it is stopped, see tests/test_page.py',
}
LONG = (ROOT / 'docs/deployment.md', ROOT / 'README.md')
STEPPING = ('effvim.train', 'effvim.memory', 'effvim.check')


def small(config, given):
    """Flags that make training by a config a matter of seconds; some are said already."""
    kind = next((kind for kind in TEST if kind in config), 'retinanet')
    options = [f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')]
    options += [
        *TEST[kind],
        *(
            ADE
            if kind == 'semfpn'
            else ['train_cfg.max_epochs=2', 'default_hooks.checkpoint.interval=2']
        ),
    ]
    if '--data' in given:
        return ['--from-scratch', '--epochs', '1', '--cfg-options', *options[:3]]
    options += ['train_dataloader.batch_size=2'] + [
        f'{split}_dataloader.dataset.pipeline.{step}.scale=(96,96)'
        for split, step in (('train', 2), ('val', 1), ('test', 1))
    ]
    return ['--from-scratch', '--cfg-options', *options]


@pytest.fixture(scope='module')
def start(tmp_path_factory):
    """What a reader has: data and a trained run."""
    folder = tmp_path_factory.mktemp('start')
    coco = synthetic.draw_coco(folder / 'data/coco', num_train=2, num_val=2, size=64)
    ade = synthetic.draw_ade(
        folder / 'data/ade/ADEChallengeData2016', num_train=2, num_val=2, size=64
    )
    for root, name in ((coco, 'mini-coco'), (ade, 'mini-ade')):
        (folder / 'data' / name).symlink_to(root)
    config = str(ROOT / 'configs/retinanet_effvim_m1.py')
    call(
        'train',
        config,
        '--data-root',
        coco,
        '--work-dir',
        folder / 'work_dirs/a',
        *small(config, []),
    )
    return folder


@pytest.fixture
def here(start, tmp_path, monkeypatch):
    """The current folder, as the pages take it to be."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').symlink_to(start / 'data')
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'pictures').symlink_to(start / 'data/coco/train2017')
    shutil.copytree(start / 'work_dirs', 'work_dirs')
    shutil.copy('work_dirs/a/epoch_2.pth', '.')
    shutil.copy(next(Path('pictures').iterdir()), 'picture.jpg')
    for name in ('shapes', 'FOLDER'):
        draw_yolo(tmp_path / name, 6)


def fitted(line):
    """Module and arguments of a command, at the size of a test."""
    module, given = arguments(line)
    given = [
        word.replace('m4', 'm1').replace('iter_1200', 'iter_3').replace('epoch_12', 'epoch_2')
        for word in given
    ]
    if module in STEPPING and given:
        if module == 'effvim.train' and '--work-dir' not in given:
            flags = [flag[1:] for flag in ('--mini', '--data') if flag in given]
            folder = ''.join([f'work_dirs/{Path(given[0]).stem}', *flags])
            given += ['--work-dir', folder]
        given = [word for word in given if word != '--mini'] + small(given[0], given)
    return module, given


@pytest.mark.parametrize(
    'page',
    [
        pytest.param(
            page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.slow] * (page in LONG)
        )
        for page in TEXTS
        if page.name != 'custom_data.md'
    ],
)  # see tests/test_data*.py
def test_commands_of_a_page(page, here, capfd):
    done = []
    for line in commands(page.read_text()):
        if any(words in line for words in NOT_RUN):
            continue
        module, given = fitted(line)
        same = [module, *(Path(word).stem if i == 0 else word for i, word in enumerate(given))]
        if same in done:  # but for the way to name a config
            continue
        done.append(same)
        status = run_main(importlib.import_module(module).main, given)
        assert status == 0, f'{line}\n{capfd.readouterr().err}'
        for flag in {'--out', '--report', '--work-dir'} & set(given):
            assert Path(given[given.index(flag) + 1]).exists(), line
        if 'metrics.json' in given:
            numbers = json.loads(Path('metrics.json').read_text())
            assert ('mIoU' in numbers) == ('semfpn' in given[0])
            assert ('coco/segm_mAP' in numbers) == ('mask_rcnn' in given[0])
        if module == 'effvim.infer' and 'found' in given:
            source = Path(given[2])
            number = len(list(source.iterdir())) if source.is_dir() else 1
            assert len(list(Path('found/pictures').iterdir())) == number
            results = 'labels' if 'semfpn' in given[0] else 'detections.bbox.json'
            assert Path('found', results).exists() or '--json' not in given
            shutil.rmtree('found')


@pytest.mark.parametrize('words', NOT_RUN)
def test_reasons_are_of_commands_that_are_there(words):
    assert [line for _, line in COMMANDS if words in line]
