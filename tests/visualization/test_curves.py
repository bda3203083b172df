"""Curves of several runs, compared with what the runs logged."""

import json

import pytest
from PIL import Image

from effvim.visualization.curves import draw_runs
from tests.helpers.cli import run_command


def test_curves_of_several_runs(run_of, tmp_path):
    folders = [run_of(kind).folder / 'run' for kind in ('retinanet', 'mask_rcnn', 'semfpn')]
    figure = draw_runs(folders)
    panels = {axes.get_title().split(',')[0]: axes for axes in figure.axes}
    assert panels.keys() == {'loss', 'coco/bbox_mAP', 'coco/segm_mAP', 'mIoU'}
    for i, folder in enumerate(folders):
        (log,) = folder.glob('*/vis_data/scalars.json')
        records = [json.loads(line) for line in log.read_text().splitlines()]
        losses = [(r['step'], r['loss']) for r in records if 'loss' in r]
        assert losses and panels['loss'].lines[i].get_xydata().tolist() == list(map(list, losses))
        for name, axes in panels.items():
            values = [r[name] for r in records if name in r]
            if name != 'loss':
                assert axes.lines[i].get_ydata().tolist() == values
                assert not values or axes.lines[i].get_xdata()[-1] == losses[-1][0]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(map(str, folders))
    argv = [*map(str, folders), '--out', str(tmp_path / 'new/c.png')]
    assert run_command('plots', argv) == 0
    with Image.open(tmp_path / 'new/c.png') as image:
        image.load()
        assert image.width > 1000


@pytest.mark.parametrize(
    'argv, expected',
    [
        (['nowhere', '--out', 'c.png'], 'nowhere: no run has logged'),
        (['.', '--out', 'c'], '.png'),
    ],
)
def test_mistakes_in_the_arguments_of_plots(argv, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command('plots', argv) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and expected in err and err.count('\n') == 1
