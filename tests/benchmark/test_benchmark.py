"""`effvim benchmark`: its results are complete and consistent; no assertion on speed."""

import itertools
import json
import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from backbone.errors import UserError
from effvim.benchmark import backbones, figures, tables
from effvim.benchmark.cases import Case
from effvim.benchmark.published import BOX_AP
from effvim.config.reading import import_plugins, load_config
from effvim.config.run_spec import RunSpec
from effvim.config.runtime import MissingPrecision
from effvim.console import quiet
from maintenance import benchmark_page
from tests.helpers.benchmark_runs import run
from tests.helpers.cli import run_command
from tests.helpers.networks import randomised
from tests.helpers.paths import ROOT

with quiet():
    from effvim.benchmark import timing

pytestmark = pytest.mark.usefixtures('short_benchmarks')

FAMILIES = (
    'efficientvim',
    'shvit',
    'efficientvit_m',
    'repvit',
    'fastvit',
    'starnet',
    'swiftformer',
    'fasternet',
    'poolformer',
    'mobilenetv4',
    'lowformer',
)
SPREAD = {'median', 'q1', 'q3'}
BRIEF = ('--rounds', '1')
CASE = {
    'network',
    'form',
    'dtype',
    'mode',
    'batch',
    'height',
    'width',
    'form_s',
    'first_s',
    'macs',
    'parameters',
    'peak_bytes',
    'saved_bytes',
    'seconds',
    'latency_s',
    'ratio',
}


def numbers(node):
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        return [n for item in node for n in numbers(item)]
    return [node] if isinstance(node, (int, float)) else []


def quartiles(values):
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return dict(median=pytest.approx(median), q1=pytest.approx(q1), q3=pytest.approx(q3))


def test_backbone_results_are_complete(backbone_run):
    results, _, _ = backbone_run
    assert results['kind'] == 'backbone' and results['rounds'] == 3 and not results['failed']
    measured = {
        (c['network'], c['form'], c['mode'], c['dtype'], c['height'], c['width'])
        for c in results['cases']
    }
    plain = itertools.product(
        ('m1', 'efficientvim_m1', 'starnet_s1'), ['plain'], ('forward', 'train')
    )
    fused = itertools.product(('m1', 'efficientvim_m1'), ['fused+channels-last'], ['forward'])
    assert measured == {
        (*case, dtype, *size)
        for case in (*plain, *fused)
        for dtype in ('float32', 'bfloat16')
        for size in ((32, 32), (64, 96))
    }
    for case in results['cases']:
        assert CASE | {'throughput', 'share'} == case.keys()
        assert len(case['seconds']) == 3 and case['latency_s'].keys() == SPREAD
        assert (case['saved_bytes'] is None) == (case['mode'] == 'forward')
        assert case['batch'] == 2
    values = numbers(results)
    assert all(math.isfinite(value) for value in values)
    assert all(
        value > 0
        for case in results['cases']
        for value in numbers({k: v for k, v in case.items() if k != 'form_s'})
    )


def test_backbone_results_fit_together(backbone_run):
    results, _, _ = backbone_run
    assert results['matmul'].items() >= quartiles(results['matmul']['rounds']).items()
    cases = {tuple(c[k] for k in Case._fields): c for c in results['cases']}
    for key, case in cases.items():
        seconds = np.array(case['seconds'])
        assert case['latency_s'] == quartiles(seconds)
        assert case['throughput'] == pytest.approx(2 / np.median(seconds))
        baseline = cases[('efficientvim_m1', 'plain', *key[2:])]
        assert case['ratio'] == quartiles(np.array(baseline['seconds']) / seconds)
        rate = np.array(results['matmul']['rounds'])
        assert case['share'] == quartiles(2 * case['macs'] / seconds / rate)


def test_macs_and_memory_are_those_of_the_network(backbone_run):
    results, _, _ = backbone_run
    cases = {
        (c['network'], c['form'], c['mode'], c['dtype'], c['height']): c for c in results['cases']
    }
    for (network, form, mode, _, height), case in cases.items():
        plain = cases[network, 'plain', mode, 'float32', height]
        assert case['macs'] == pytest.approx(plain['macs'], rel=0.02), (network, form)
        if network == 'm1':  # the same network in timm
            assert case['macs'] == pytest.approx(
                cases['efficientvim_m1', 'plain', mode, 'float32', height]['macs'], rel=0.02
            )
            assert case['parameters'] == 5_713_534
        if mode == 'train':
            forward = cases[network, 'plain', 'forward', 'float32', height]
            assert case['macs'] == 3 * forward['macs']
            assert case['peak_bytes'] > case['saved_bytes'] > 0


def test_backbone_tables_and_figure(backbone_run):
    results, text, folder = backbone_run
    with Image.open(folder / 'plot.png') as image:
        assert image.width > 500
    lines = text.splitlines()
    for case in results['cases']:
        row = [
            line
            for line in lines
            if f'{case["network"]}:{case["form"]}' in line
            and f'{1e3 * case["latency_s"]["median"]:.3g} (' in line
        ]
        assert row or case['latency_s']['median'] >= 0.1
    for heading in (
        'forward, float32, 2×64×96',
        'train, bfloat16, 2×32×32',
        'Speed-up, each network in its best form',
        'Speed-up of lower precision over float32',
    ):
        assert f'### {heading}' in text


def test_table_of_best_forms():
    """By hand: ours 4 s, compiled 3 s; theirs 8 s plain, 6 s channels-last, 9 s compiled."""
    cases = [
        dict(
            network=network,
            form=form,
            mode='train',
            dtype='float32',
            batch=1,
            height=64,
            width=64,
            seconds=[s, s],
            latency_s=dict(median=s, q1=s, q3=s),
            saved_bytes=saved,
        )
        for network, form, s, saved in (
            ('m4', 'plain', 4, 10),
            ('m4', 'compiled', 3, 6),
            ('shvit_s4', 'plain', 8, 12),
            ('shvit_s4', 'channels-last', 6, 11),
            ('shvit_s4', 'compiled', 9, 8),
        )
    ]
    row = list(tables.best_table(cases))[-1]
    assert row.split(' | ')[1:] == [
        '**m4**',
        'shvit_s4',
        '2 (2–2)',
        '1.5 (1.5–1.5)',
        '3 (3–3)',
        '2 (2–2)',
        '0.50 |',
    ]


def test_slope_and_time_to_all_sizes():
    cases = [
        dict(
            network='m1',
            form='plain',
            mode='forward',
            dtype='float32',
            batch=1,
            height=side,
            width=side,
            latency_s=dict(median=side**1.9),
            form_s=1.0,
            first_s=2.0,
        )
        for side in (64, 128, 256)
    ]
    row = list(tables.sizes_table(cases))[-1]
    assert row == '| **m1:plain** | forward, float32, 1, 3 sizes | 7 | 0.95 |'
    few = [dict(case, network='m2') for case in cases[:2]]  # a line fits any two points
    row = list(tables.sizes_table([*cases, *few]))[-1]
    assert row == '| **m2:plain** | forward, float32, 1, 2 sizes | 5 | – |'


@pytest.mark.parametrize('arch', backbones.PEERS)
def test_peers_are_in_timm(arch):
    assert set(backbones.PEERS[arch]) <= set(timm.list_models())


def test_every_family_is_a_peer():
    names = {name for peers in backbones.PEERS.values() for name in peers}
    for family in FAMILIES:
        assert any(name.startswith(family) for name in names), family
    assert set(BOX_AP) <= set(timm.list_models())


@pytest.mark.parametrize(
    'name', sorted({name for peers in backbones.PEERS.values() for name in peers})
)
def test_peers_compute_the_same_in_every_form(name):
    """A form that is fast because it computes something else is worth nothing."""
    network = randomised(backbones.set_mode(backbones.build(name), 'forward'))
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = network(x)
        assert len(expected) >= 3
        if backbones.can_fuse(network):
            folded = backbones.apply_form(
                network, 'fused+channels-last', torch.float32, torch.device('cpu')
            )(x)
            for a, b in zip(expected, folded):
                assert (a - b).norm() <= 1e-4 * a.norm()


def test_rounds_run_every_case_once():
    calls = []
    cases = {name: lambda name=name: calls.append(name) or len(calls) for name in 'abc'}
    values = timing.interleave(cases, rounds=4, seconds=600)
    rounds = [calls[i : i + 3] for i in range(0, 12, 3)]
    assert len(calls) == 12 and all(sorted(each) == ['a', 'b', 'c'] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1  # the order changes
    for name, numbers_of_calls in values.items():
        assert [calls[i - 1] for i in numbers_of_calls] == [name] * 4


def test_rounds_end_with_the_time():
    assert timing.interleave({'a': lambda: 1}, rounds=5, seconds=0) == {'a': [1]}


def test_peak_of_known_allocations():
    def run():
        a = torch.empty(3 * 2**20, dtype=torch.uint8)
        del a
        b = torch.empty(2**20, dtype=torch.uint8)
        c = torch.empty(2**20 + 2**19, dtype=torch.uint8)
        return b, c

    assert timing.peak_bytes(run, torch.device('cpu')) == 3 * 2**20


def test_saved_for_backward_counts_each_tensor_once():
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(inplace=True), nn.Sigmoid())
    x = torch.randn(2, 3, 10, 10)
    # the convolution keeps its input, ReLU and sigmoid their outputs; weights are not counted
    expected = 4 * (2 * 3 * 100 + 2 * 8 * 100 + 2 * 8 * 100)
    assert timing.saved_bytes(lambda: network(x), network) == expected


def test_generated_detections(generated):
    ground_truth, predictions = generated
    assert len(predictions) == 20 * 12 and len(ground_truth['images']) == 20
    assert 60 < len(ground_truth['annotations']) < 240
    # the order of equal scores is not defined
    assert len({item['score'] for item in predictions}) == len(predictions)
    for item in (*ground_truth['annotations'], *predictions):
        x, y, w, h = item['bbox']
        assert 0 <= x and 0 <= y and x + w <= 640 + 1e-6 and y + h <= 480 + 1e-6


def test_evaluation(tmp_path):
    results, text = run(
        tmp_path, 'evaluation', '--images', '20', '--detections', '12', '--rounds', '2'
    )
    assert results['rounds'] == 2 and results['images'] == 20 and results['detections'] == 240
    assert [case['what'] for case in results['cases']] == ['boxes', 'masks']
    for case in results['cases']:
        ours, theirs = (case['numbers'][name] for name in ('ours', 'pycocotools'))
        assert len(ours) == len(theirs) == 12 and 0.05 < theirs[0] < 0.95
        assert case['largest_difference'] == max(map(abs, np.subtract(ours, theirs))) <= 1e-9
        seconds = case['seconds']
        assert case['ratio'] == quartiles(np.divide(seconds['pycocotools'], seconds['ours']))
        assert case['latency_s']['ours'] == quartiles(seconds['ours'])
        assert f'| {case["what"]} |' in text


CONFIG = str(ROOT / 'configs/retinanet_effvim_m1.py')
NETWORK = ['backbone', 'neck', 'heads']
FEW = [
    '--cfg-options',
    'model.test_cfg.rpn.max_per_img=10',
    'model.test_cfg.rcnn.max_per_img=5',
    'model.train_cfg.rpn_proposal.max_per_img=10',
    'model.train_cfg.rcnn.sampler.num=8',
]


@pytest.mark.parametrize('name, options', [('retinanet', []), ('mask_rcnn', FEW), ('semfpn', [])])
def test_model(name, options, tmp_path):
    results, text = run(
        tmp_path,
        'model',
        str(ROOT / f'configs/{name}_effvim_m1.py'),
        '--cases',
        'own:channels-last',
        'efficientvim_m1',
        '--sizes',
        '64x96',
        '--modes',
        'forward',
        'train',
        '--rounds',
        '2',
        '--batch',
        '2',
        *options,
    )
    assert results['config'] == f'{name}_effvim_m1.py' and results['weights'].startswith('random')
    assert len(results['cases']) == 4 and not results['failed']
    stages = {
        'forward': ['loading', 'pre-processing', *NETWORK, 'post-processing'],
        'train': ['pre-processing', *NETWORK, 'losses', 'backward'],
    }
    assert all(math.isfinite(value) and value >= 0 for value in numbers(results))
    for case in results['cases']:
        seconds = case['seconds']
        assert CASE == case.keys() and list(seconds) == [*stages[case['mode']], 'network', 'total']
        assert all(value > 0 for values in seconds.values() for value in values)
        for stage, values in seconds.items():
            assert case['latency_s'][stage] == quartiles(values)
        baseline = next(
            c for c in results['cases'] if c['network'] == 'own' and c['mode'] == case['mode']
        )['seconds']
        for stage in ('network', 'total'):
            assert case['ratio'][stage] == quartiles(np.divide(baseline[stage], seconds[stage]))
        # there is one call in a round, else the medians of the stages would not add up
        assert np.allclose(np.sum([seconds[p] for p in NETWORK], 0), seconds['network'])
        assert np.allclose(np.sum([seconds[p] for p in stages[case['mode']]], 0), seconds['total'])
    if name != 'mask_rcnn':  # whose head sees other boxes in training
        macs = {(case['network'], case['mode']): case['macs'] for case in results['cases']}
        for network in ('own', 'efficientvim_m1'):
            forward = macs[network, 'forward']
            assert macs[network, 'train'] == pytest.approx(3 * forward, rel=0.01)
    assert '### forward, float32, 2×64×96' in text
    assert (tmp_path / 'plot.png').is_file()


def test_a_config_without_a_neck(tmp_path, capsys):
    """Its head takes the maps as they are: they need the channels of its own backbone."""
    config = str(ROOT / 'configs/gallery/fcn_effvim_m1.py')
    results, _ = run(
        tmp_path, 'model', config, '--cases', 'own', 'efficientvim_m1', '--sizes', '64', *BRIEF
    )
    own, other = (case['macs'] for case in results['cases'])
    assert other == pytest.approx(own, rel=0.02)
    assert run_command('benchmark', ['model', config, '--cases', 'efficientvim_m2']) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith('error: efficientvim_m2 returns maps of [')
    assert '[128, 192, 320]' in line and 'neck' in line


def test_compared_with_another_config(tmp_path):
    """At the same input; MACs and parameters are those of the models, by torch's counter."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope
    from torch.utils.flop_counter import FlopCounterMode

    other = 'rtmdet_effvim_m1'
    results, text = run(
        tmp_path,
        'model',
        CONFIG,
        '--sizes',
        '128x64',
        '--rounds',
        '2',
        '--cases',
        'own',
        other,
        '--cfg-options',
        'model.test_cfg.nms_pre=50',
    )
    retinanet, rtmdet = results['cases']
    assert (retinanet['network'], rtmdet['network']) == ('own', other)
    for case, path in ((retinanet, CONFIG), (rtmdet, ROOT / f'configs/{other}.py')):
        cfg = load_config(str(path))
        cfg.model.backbone.init_cfg = None
        init_default_scope('mmdet')
        model = MODELS.build(cfg.model).eval()
        assert case['parameters'] == sum(p.numel() for p in model.parameters())
        model = revert_sync_batchnorm(model)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.bbox_head(model.extract_feat(torch.zeros(1, 3, 128, 64)))
        assert case['macs'] == counter.get_total_flops() // 2
        assert f'| {case["parameters"] / 1e6:.3g} |' in text
    argv = ['model', CONFIG, '--cases', 'own', 'semfpn_effvim_m1']
    assert run_command('benchmark', argv) == 2


def test_model_of_a_checkpoint(tmp_path):
    """Its classes and thresholds are used; one that does not fit is an error."""
    from mmengine.registry import MODELS, init_default_scope

    cfg = load_config(CONFIG)
    import_plugins(cfg)
    init_default_scope('mmdet')
    cfg.model.bbox_head.num_classes = 3
    torch.save(
        {
            'state_dict': MODELS.build(cfg.model).state_dict(),
            'meta': {'dataset_meta': {'classes': ('a', 'b', 'c')}},
        },
        tmp_path / 'c.pth',
    )
    results, _ = run(
        tmp_path, 'model', CONFIG, tmp_path / 'c.pth', '--sizes', '64', '--rounds', '1'
    )
    assert results['weights'].startswith('weights of a checkpoint')
    # a checkpoint of this project knows its config
    content = torch.load(tmp_path / 'c.pth')
    content['meta']['effvim'] = RunSpec('retinanet_effvim_m1.py').to_dict()
    torch.save(content, tmp_path / 'own.pth')
    results, _ = run(tmp_path, 'model', tmp_path / 'own.pth', '--sizes', '64', '--rounds', '1')
    assert results['config'] == 'retinanet_effvim_m1.py'
    assert results['weights'].startswith('weights of a checkpoint')
    torch.save(
        {'state_dict': {**MODELS.build(cfg.model).state_dict(), 'x': torch.ones(1)}},
        tmp_path / 'c.pth',
    )
    assert (
        run_command('benchmark', ['model', CONFIG, str(tmp_path / 'c.pth'), '--sizes', '64']) == 2
    )


def test_page_is_that_of_the_recorded_results():
    recorded = (ROOT / 'docs/benchmarks.md').read_text()
    assert benchmark_page.page(ROOT / 'docs/benchmarks') == recorded
    for path in (ROOT / 'docs/benchmarks').glob('*.json'):
        assert f'`{json.loads(path.read_text())["command"]}`' in recorded


def test_page_states_what_is_not_measured(backbone_run, tmp_path):
    results, text, _ = backbone_run
    assert benchmark_page.page(tmp_path).count('Not measured.') == 2
    (tmp_path / 'small-sizes.json').write_text(json.dumps(results))
    page = benchmark_page.page(tmp_path)
    assert '## Small sizes\n' in page and text in page
    assert '## On a CUDA GPU\n\nNot measured.' in page and '## On a CPU' not in page


def test_page_refuses_other_files(tmp_path):
    for content in ('[]', '{', '{"format": 1}', '{"format": 2, "kind": "backbone"}'):
        (tmp_path / 'a.json').write_text(content)
        with pytest.raises(UserError, match=r'a\.json was not written by'):
            benchmark_page.page(tmp_path)


def test_published_scores_of_ours():
    scores = figures.published_scores()
    assert scores['RetinaNet, box AP']['m4'] == 38.8
    assert scores['Mask R-CNN, box AP']['m4'] == 39.7
    assert scores['ImageNet top-1, 450 epochs'].items() >= dict(m1=73.5, m4=79.6).items()


@pytest.mark.parametrize(
    'argv, words',
    [
        (['backbone', 'shvit_s5'], ["'shvit_s5'", 'did you mean', 'shvit_s4']),
        (['backbone', 'm5'], ["'m5'", 'm1']),
        (['backbone', 'm1:fusd'], ["'fusd'", "'fused'"]),
        (['backbone', 'm1', '--forms', 'plian'], ["'plian'", "'plain'"]),
        (['backbone', 'm1:compiled+dynamic'], ['compiled twice']),
        (['backbone', 'm1:fused', '--modes', 'train'], ['no case is left', 'cannot be trained']),
        (['backbone', 'm1:graphs', '--device', 'cpu'], ['graphs', 'GPU']),
        (['backbone', 'starnet_s1:fused'], ['starnet_s1', 're-parameterised']),
        (['backbone', 'm1', '--sizes', '31x64'], ['31x64', '32']),
        (['backbone', 'm1', '--sizes', '64', '1x2x3'], ['1x2x3', '800x1344']),
        (['backbone', 'm1', '--sizes', 'big'], ['big', '--sizes']),
        (['backbone', 'm1:plain', '--baseline', 'm2:plain'], ['--baseline m2:plain', 'm1:plain']),
        (['backbone', 'm1', '--rounds', '0'], ['--rounds', 'at least 1']),
        (['backbone', 'm1', '--batch', '0'], ['--batch', 'at least 1']),
        (['backbone', 'm1', '--threads', '0'], ['--threads', 'at least 1']),
        (['backbone', 'm1', '--plot', 'speed.gif'], ['--plot speed.gif', '.svg']),
        (['model', CONFIG, '--plot', 'speed'], ['--plot speed', '.png']),
        (['backbone', 'm1', '--json', '.'], ['--json', 'directory']),
        (['backbone', 'm1', '--json', '/proc/x/a.json'], ['--json', '/proc/x']),
        (['backbone', 'm1', '--dtypes', 'int4'], ['int4', 'bfloat16']),
        (['backbone', 'm1', '--dtypes', 'int8'], ['only exported ones', 'int8']),
        (['backbone', 'm1:fused+openvino'], ['fused+openvino', 'stands alone']),
        (['backbone'], ['NETWORK']),
        (['evaluation', '--detections', '101'], ['100']),
        (['model', 'nothing.py'], ['nothing.py', 'not found']),
        (['model', CONFIG, 'nothing.pth'], ['nothing.pth']),
        (['model', CONFIG, '--cases', 'onw'], ["'onw'", "'own'"]),
        (['model', CONFIG, '--cases', 'own:openvino'], ['own:openvino', 'effvim export']),
        (['model', CONFIG, '--dtypes', 'int8'], ['int8', '--int8']),
        (
            ['model', CONFIG, '--cases', 'repvit_m1_1'],
            ['repvit_m1_1', '[4, 8, 16, 32]', '[16, 32, 64]'],
        ),
        (
            ['model', 'rtmdet_effvim_m1', '--cases', 'efficientvim_m1'],
            [
                'efficientvim_m1',
                '[16, 32, 64]',
                '[8, 16, 32, 64]',
                'use a network with these strides',
            ],
        ),
        (['model', CONFIG, '--cfg-options', 'model.bakcbone=1'], ['model.backbone']),
    ],
    ids=lambda value: ' '.join(value[:3]) if isinstance(value, list) else None,
)
def test_mistakes(argv, words, capsys):
    assert run_command('benchmark', argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith('error: '), lines
    for word in words:
        assert word in lines[0]


def error(capsys, *argv):
    assert run_command('benchmark', argv) == 2
    return capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_cuda_where_there_is_none(capsys):
    assert 'no GPU' in error(capsys, 'backbone', 'm1', '--device', 'cuda')


def test_compiled_forms_without_a_compiler(capsys):
    import torch._inductor.config

    with torch._inductor.config.patch({'cpp.cxx': ('no-such-compiler',)}):
        assert 'C++ compiler' in error(capsys, 'backbone', 'm1:compiled', '--device', 'cpu')


def test_failed_compilation_is_reported(monkeypatch, tmp_path):
    """A network that cannot be compiled is listed, and the others are measured."""
    from torch._dynamo.exc import TorchDynamoException

    def compiled(network, **_):
        def fail(x):
            raise TorchDynamoException('cannot determine\nmore')

        network.forward = fail
        return network

    monkeypatch.setattr(torch, 'compile', compiled)
    monkeypatch.setattr(timing, 'compiling', lambda _: quiet())
    results, text = run(
        tmp_path, 'backbone', 'm1:plain', 'm1:compiled', '--sizes', '32', '--rounds', '1'
    )
    assert [case['form'] for case in results['cases']] == ['plain']
    assert results['failed'][0]['error'] == 'TorchDynamoException: cannot determine'
    assert '\nNot measured:\n' in text and '`TorchDynamoException: cannot determine`' in text


def test_a_precision_that_the_machine_lacks_is_reported(monkeypatch, tmp_path):
    def prepare(first, *_):
        if first.dtype == 'bfloat16':
            raise MissingPrecision('this CPU computes no bfloat16')
        return measured(first, *_)

    measured = backbones.prepare
    monkeypatch.setattr(backbones, 'prepare', prepare)
    _, text = run(
        tmp_path, 'backbone', 'm1:plain', '--sizes', '32', '--dtypes', 'float32', 'bfloat16', *BRIEF
    )
    reason = '**m1:plain**, forward, bfloat16, 1×32×32: `this CPU computes no bfloat16`'
    assert f'\nNot measured:\n\n- {reason}' in text and 'torch.compile' not in text


@pytest.mark.parametrize('kind', ['png', 'svg', 'pdf'])
def test_a_figure_is_written_atomically(kind, backbone_run, tmp_path):
    """A new file takes the place of the old one, which another name still holds."""
    results, _, _ = backbone_run
    old, new = tmp_path / 'old', tmp_path / f'plot.{kind.upper()}'
    old.write_text('old')
    new.hardlink_to(old)
    figures.plot(results, new)
    assert old.read_text() == 'old'
    start = {'png': b'\x89PNG', 'svg': b'<?xml', 'pdf': b'%PDF'}[kind]
    assert new.read_bytes().startswith(start)
