"""The tables of the READMEs: generated; their figures against the published ones and a formula."""

import re

import pytest
from tests.helpers.cli import run_command

from effvim.benchmark.counting import macs
from effvim.config.reading import load_config
from effvim.datasets import synthetic
from maintenance import tables
from tests.helpers.paths import ROOT

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


@pytest.fixture(scope='module')
def rows():
    """Cells of the generated tables by their first cell."""
    found = {}
    for line in tables.readme():
        if line.startswith('|'):
            first, *cells = [cell.strip() for cell in line.strip('|').split(' | ')]
            found.setdefault(first, []).append(cells)
    return found


def of(path):
    return f'[{path.stem}](configs/{path.name})'


@pytest.mark.parametrize('path', tables.PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_have_the_tables_of_today(path):
    text = path.read_text()
    assert tables.insert(text, tables.PAGES[path]()) == text, 'run: make tables'


def test_the_rest_of_a_page_stays():
    old = f'before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n'
    new = tables.insert(old, ['| new |'])
    assert new.startswith('before\n') and new.endswith('\nafter\n') and 'old' not in new
    assert '\n\n| new |\n\n' in new and tables.insert(new, ['| new |']) == new
    with pytest.raises(ValueError, match='needs the lines'):
        tables.insert('no place', [])


def test_every_config_of_the_gallery_has_a_row():
    """As many parameters as a detector of torch has, and strides that its head says."""
    rows = {line.split('](')[0].strip('| ['): line.split(' | ') for line in tables.gallery()}
    for path in sorted((ROOT / 'configs/gallery').glob('*.py')):
        _, what, parameters, neck, strides = rows[path.stem]
        model = load_config(str(path)).model
        head = model.get('bbox_head') or model.get('rpn_head') or {}
        said = head.get('strides') or head.get('anchor_generator', {}).get('strides')
        found = [int(s) for s in strides.rstrip(' |').split(', ')]
        assert said is None or list(said) == found, path.stem
        assert 'arXiv' in what and int(parameters.replace(',', '')) > 5_713_534
        assert neck.strip('`') == (model.get('neck') or {'type': 'none'})['type']


def test_backbones_as_published(rows):
    """Parameters of classifier and backbone, counted MACs in millions, top-1."""
    for name, expected in {
        'M1': ['6,679,458', '5,713,534', '236 M at 224 × 224', '72.9', '73.5', '74.6', 'no'],
        'M2': ['13,903,842', '12,489,022', '352 M at 224 × 224', '75.4', '75.8', '76.7', 'no'],
        'M3': ['16,604,174', '15,029,034', '652 M at 224 × 224', '77.6', '77.9', '79.1', 'no'],
        'M4': ['19,606,505', '18,031,365', '1,105 M at 256 × 256', '79.4', '79.6', '80.7', 'no'],
    }.items():
        assert rows[name] == [expected]


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_config_has_a_row(path, rows):
    published = {
        'retinanet_effvim_m4': ['28,570,425', 'box AP 38.8 ', '17,879 MiB, published', 16],
        'mask_rcnn_effvim_m4': [
            '39,323,701',
            'box AP 39.7, mask AP 36.4 ',
            '21,943 MiB, published',
            16,
        ],
        'semfpn_effvim_m4': ['21,715,867', 'mIoU 41.3 ', '3,887 MiB, published', 4],
    }.get(path.stem)
    own = rows[of(path)]
    parameters, _, score, measured = own[0]
    assert measured == 'no' and len(own) == (
        1 if not published else 2 + (path.stem in tables.MEASURED)
    )
    if not published:
        assert score == '–'
        return
    assert parameters == published[0] and score.startswith(published[1])
    cells = dict(zip(tables.BATCHES, own[1][1:]))
    assert cells.pop(published[3]) == published[2] and set(cells.values()) == {'not measured'}
    if path.stem in tables.MEASURED:
        assert {re.sub('[0-9,]+ MiB, ', '', cell) for cell in own[2][1:]} == {
            'measured',
            'not measured',
        }


def test_counted_macs_of_retinanets_head(rows):
    """Two towers of four 3×3 convolutions and their outputs on five maps, 9 anchors, 80 classes."""
    positions = sum(-(-800 // s) * -(-1344 // s) for s in (8, 16, 32, 64, 128))
    head = positions * 9 * 256 * (8 * 256 + 9 * (80 + 4))
    cfg, model = tables.build(ROOT / 'configs/retinanet_effvim_m4.py')
    run, _ = tables.forward(cfg, model)
    whole = macs(run)
    assert rows[of(ROOT / 'configs/retinanet_effvim_m4.py')][0][1] == (
        f'{whole / 1e9:.1f} G at 1344 × 800'
    )
    model.bbox_head = None
    assert whole - macs(run) == head


def test_memory_of_training_is_measured(tmp_path, capsys):
    root = synthetic.draw_coco(tmp_path / 'coco', num_train=4, num_val=1, size=64)
    assert (
        run_command(
            'memory',
            [
                str(ROOT / 'configs/retinanet_effvim_m1.py'),
                '--data-root',
                str(root),
                '--work-dir',
                str(tmp_path / 'run'),
                '--cfg-options',
                'train_dataloader.batch_size=1',
                'train_dataloader.num_workers=0',
                'train_dataloader.dataset.pipeline.2.scale=(64,64)',
            ],
        )
        == 0
    )
    found = re.fullmatch(
        r'retinanet_effvim_m1.py, batch 1: ([0-9,]+) MiB on .+\n', capsys.readouterr().out
    )
    # weights, gradients and AdamW's two moments in float32
    assert int(found[1].replace(',', '')) > 14e6 * 4 * 4 / 2**20
