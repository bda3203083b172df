"""The generated tables of the documentation, compared with published figures and a formula."""

import json
import re

import pytest

from effvim.benchmark.counting import count_macs
from effvim.config.headers import read_header
from effvim.config.reading import load_config
from maintenance import tables
from tests.helpers.paths import ROOT

CONFIGS = sorted((ROOT / 'configs').glob('*.py'))


@pytest.mark.parametrize(
    'section', tables.SECTIONS, ids=lambda s: f'{s.page.relative_to(ROOT)}-{s.name}'
)
def test_pages_are_up_to_date(section):
    text = section.page.read_text()
    assert section.insert(text, section.lines()) == text, 'run: make tables'


@pytest.mark.parametrize(('numbers', 'text'), [([9], '9'), ([9, 9], '9'), ([14, 9, 15], '9 to 15')])
def test_numbers_that_differ(numbers, text):
    assert tables.extent(numbers) == text


def test_the_rest_of_a_page_stays():
    section = tables.Section(ROOT / 'page.md', 'x', list)
    old = 'before\n<!-- x: written by make tables -->\nold\n<!-- x: end -->\nafter\n'
    new = section.insert(old, ['| new |'])
    assert new.startswith('before\n') and new.endswith('\nafter\n') and 'old' not in new
    assert '\n\n| new |\n\n' in new and section.insert(new, ['| new |']) == new
    with pytest.raises(ValueError, match='needs the lines'):
        section.insert('no markers', [])


def test_speed_in_the_readme_is_that_of_the_benchmarks():
    """RTMDet-M4 and the backbone, read from the JSON files here."""
    lines = '\n'.join(tables.speed())
    for name, network, form in (
        ('rtmdet', 'rtmdet_effvim_m4', 'fused+channels-last'),
        ('inference', 'm4', 'plain'),
        ('inference', 'efficientvim_m4', 'plain'),
    ):
        run = json.loads((ROOT / f'docs/benchmarks/{name}.json').read_text())
        case = next(
            c
            for c in run['cases']
            if (c['network'], c['form']) == (network, form) and c['height'] in (640, 800)
        )
        latency = case['latency_s'].get('total', case['latency_s'])
        assert f'| {1e3 * latency["median"]:.0f} ms |' in lines
        assert run['date'] in lines


def test_results_in_the_readme_are_the_published_ones():
    lines = list(tables.results())[2:]
    assert len(lines) == 3 and any('`retinanet_effvim_m4`' in line for line in lines)
    assert any('| box AP 39.7, mask AP 36.4 |' in line for line in lines)


def test_every_config_of_the_gallery_has_a_row():
    """Method, parameters and neck are there, and the strides are those of its head."""
    lines = tables.gallery(links=True)
    rows = {line.split('](')[0].strip('| ['): line.split(' | ') for line in lines}
    for path in sorted((ROOT / 'configs/gallery').glob('*.py')):
        _, method, parameters, neck, strides = rows[path.stem]
        model = load_config(str(path)).model
        head = model.get('bbox_head') or model.get('rpn_head') or {}
        expected = head.get('strides') or head.get('anchor_generator', {}).get('strides')
        listed = [int(s) for s in strides.rstrip(' |').split(', ')]
        assert expected is None or list(expected) == listed, path.stem
        assert 'arXiv' in method and int(parameters.replace(',', '')) > 5_713_534
        assert neck.strip('`') == (model.get('neck') or {'type': 'none'})['type']


def test_backbones_as_published(rows):
    """Parameters of classifier and backbone, counted MACs in millions, top-1."""
    for name, expected in {
        'M1': ['6,679,458', '5,713,534', '236 M at 224 × 224', '72.9', '73.5', '74.6'],
        'M2': ['13,903,842', '12,489,022', '352 M at 224 × 224', '75.4', '75.8', '76.7'],
        'M3': ['16,604,174', '15,029,034', '652 M at 224 × 224', '77.6', '77.9', '79.1'],
        'M4': ['19,606,505', '18,031,365', '1,105 M at 256 × 256', '79.4', '79.6', '80.7'],
    }.items():
        assert rows[name] == [expected]


def test_our_score_stands_next_to_the_published_one(tmp_path):
    config = tmp_path / 'a.py'
    config.write_text(
        '# Published: box AP 38.8 on COCO (x). Measured by us: box AP 38.7. \n_base_ = 1\n'
    )
    header = read_header(config)
    assert tables.score_of(header, 'box AP 38.8') == 'box AP 38.8; measured by us: box AP 38.7'


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
    own = rows[path.stem]
    parameters, _, score = own[0]
    assert len(own) == (1 if not published else 2 + (path.stem in tables.MEASURED_MEMORY))
    if not published:
        assert score == '–'
        return
    assert parameters == published[0] and score.startswith(published[1])
    cells = dict(zip(tables.BATCHES, own[1][1:]))
    assert cells.pop(published[3]) == published[2] and set(cells.values()) == {'not measured'}
    if path.stem in tables.MEASURED_MEMORY:
        assert {re.sub('[0-9,]+ MiB, ', '', cell) for cell in own[2][1:]} == {
            'measured',
            'not measured',
        }


def test_counted_macs_of_retinanets_head(rows):
    """Two towers of four 3×3 convolutions and their outputs on five maps, 9 anchors, 80 classes."""
    positions = sum(-(-800 // s) * -(-1344 // s) for s in (8, 16, 32, 64, 128))
    head = positions * 9 * 256 * (8 * 256 + 9 * (80 + 4))
    cfg, model = tables.build(ROOT / 'configs/retinanet_effvim_m4.py')
    run, _ = tables.counted_forward(cfg, model)
    total = count_macs(run)
    assert rows['retinanet_effvim_m4'][0][1] == f'{total / 1e9:.1f} G at 1344 × 800'
    model.bbox_head = None
    assert total - count_macs(run) == head
