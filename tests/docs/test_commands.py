"""Every command of the site and README is run, page by page in the order of the page.

All but those that NOT_RUN names, so that a new one is run or has a reason. At a small scale: M1 for
M4, a few synthetic images, two steps, randomly initialised. The pages assume data/coco and so on;
what their placeholders stand for is in tests/helpers/documentation.py. The longest pages are marked
slow.
"""

import json
import shutil
from pathlib import Path

import pytest

from effvim.cli import main
from tests.helpers.cli import run_command
from tests.helpers.documentation import COMMANDS, TEXTS, arguments, commands, small
from tests.helpers.paths import ROOT

NOT_RUN = {  # words of a command: the reason
    'torchrun ': 'several processes, see tests/engine/test_distributed.py',
    'srun ': 'needs Slurm',
    'test CKPT --raw': 'needs a run with --ema, see tests/engine/test_training_options.py',
    '--resume': 'needs an interrupted run, see tests/engine/test_resume.py',
    ' backbone ': 'takes minutes; tests/benchmark/test_benchmark.py runs small ones',
    ' model ': 'takes minutes; tests/benchmark/test_benchmark.py runs small ones',
    ' evaluation': 'takes minutes; tests/benchmark/test_benchmark.py runs small ones',
    'imagenet ': 'needs ImageNet; tests/backbone/test_classifier.py generates its layout',
    'convert FOLDER dataset': 'instead of the split next to it, see tests/formats/test_split.py',
    'test CONFIG FILE': 'needs a converted file, see tests/backbone/test_weights.py',
    '.safetensors': 'needs published files; tests/backbone/test_weights.py generates such files',
    '--precision bfloat16': 'needs a CPU with bfloat16, see tests/export/test_openvino.py',
    'effvim weights ': 'downloads, see tests/checkpoints/test_fetching.py',
    'effvim://': 'downloads, see tests/checkpoints/test_names.py',
    'retinanet_effvim_m4 photo.jpg': 'downloads, see tests/checkpoints/test_names.py',
    'infer retinanet_effvim_m4 street.mp4': 'downloads, see tests/video/test_predicting.py',
    'test retinanet_effvim_m4': 'downloads published weights, see tests/checkpoints/test_names.py',
    'export retinanet_effvim_m4 --images': 'downloads published weights',
    'rtsp://': 'needs a server, see tests/video/test_camera_stream.py',
    'infer CKPT 0 ': 'needs a camera, see tests/video/test_camera_stream.py',
    'effvim demo': 'serves until it is stopped, see tests/web_page/test_page.py',
}
LONG = (
    'README.md',
    'docs/deployment.md',
    'docs/export.md',
    'docs/index.md',
    'docs/fine_tuning.md',
    'docs/training.md',
)
OWN_TESTS = {'docs/custom_data.md': 'tests/formats, tests/slow/test_custom_data_training.py'}
STEPPING = ('train', 'benchmark', 'check')


def scaled_down(line):
    """The command and arguments of a line, at the scale of a test."""
    command, words = arguments(line)
    for old, new in (
        ('m4', 'm1'),
        ('iter_1200', 'iter_3'),
        ('epoch_12', 'epoch_2'),
        ('epoch_100', 'epoch_1'),
    ):
        words = [word.replace(old, new) for word in words]
    if command in STEPPING and words:
        config = words[1] if command == 'benchmark' else words[0]
        if command == 'train' and '--work-dir' not in words:
            folder = f'work_dirs/{Path(config).stem}' + '-mini' * ('--mini' in words)
            shutil.rmtree(folder, ignore_errors=True)
            words += ['--work-dir', folder]
        words = [word for word in words if word != '--mini'] + small(config, words)
    return command, words


def outputs(command, words):
    """The files and directories that a command has to write; a dry run keeps nothing."""
    if '--dry-run' in words:
        return
    yield from (
        words[words.index(flag) + 1] for flag in ('--report', '--work-dir') if flag in words
    )
    if command != 'check' and '--out' in words:
        yield words[words.index('--out') + 1]


@pytest.mark.parametrize(
    'page',
    [
        pytest.param(page, id=name, marks=[pytest.mark.slow] * (name in LONG))
        for page in TEXTS
        if (name := str(page.relative_to(ROOT))) not in OWN_TESTS
    ],
)
def test_commands_of_a_page(page, here, capfd):
    done = []
    for line in commands(page.read_text()):
        if any(words in line for words in NOT_RUN):
            continue
        command, words = scaled_down(line)
        same = [command, *(Path(word).stem if i == 0 else word for i, word in enumerate(words))]
        if same in done:  # apart from the way to name a config
            continue
        done.append(same)
        assert run_command(command, words) == 0, f'{line}\n{capfd.readouterr().err}'
        for output in outputs(command, words):
            assert Path(output).exists(), line
        if 'metrics.json' in words:
            metrics = json.loads(Path('metrics.json').read_text())
            assert ('mIoU' in metrics) == ('semfpn' in words[0])
            assert ('coco/segm_mAP' in metrics) == ('mask_rcnn' in words[0])
        if command == 'infer' and 'results' in words:
            check_results(words)
            shutil.rmtree('results')


def check_results(words):
    """Compare what `effvim infer … --out results` wrote with its source."""
    source = Path(main.parse(['infer', *words]).model[-1])
    if source.suffix == '.mp4':
        assert Path('results/videos', source.name).exists()
        assert Path('results/mot').exists() == ('--mot' in words)
        return
    images = list(source.iterdir() if source.is_dir() else source.parent.glob(source.name))
    assert images and len(list(Path('results/images').glob('[!.]*'))) == len(images)
    if '--json' in words:
        name = 'labels' if 'semfpn' in words[0] else 'detections.bbox.json'
        assert Path('results', name).exists()


@pytest.mark.parametrize('words', NOT_RUN)
def test_reasons_are_for_commands_that_exist(words):
    assert [line for _, line in COMMANDS if words in line]


@pytest.mark.parametrize('page', [*LONG, *OWN_TESTS])
def test_exceptions_are_for_pages_that_exist(page):
    assert page in [name for name, _ in COMMANDS]
