"""How often garbage is collected in a command and after it."""

import gc

import pytest

from effvim import start_up
from effvim.cli import weights
from effvim.config.reading import import_plugins, load_config
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.usefixtures('own_threshold')

CONFIG = str(ROOT / 'configs/retinanet_effvim_m1.py')


@pytest.mark.parametrize('argv', [('weights', ['list']), ('train', ['absent.py']), ('infer', [])])
def test_as_before_after_a_command(argv, capsys):
    run_command(*argv)
    assert gc.get_threshold() == (1234, 5, 6)


def test_rarely_while_a_command_loads_its_modules(monkeypatch):
    seen = []

    def run(args):
        seen.append(gc.get_threshold())
        import_plugins(load_config(CONFIG))
        seen.append(gc.get_threshold())

    monkeypatch.setattr(weights, 'run', run)
    assert run_command('weights', ['list']) == 0
    assert seen == [(start_up.RARELY, 5, 6), (1234, 5, 6)]


def test_programs_keep_what_they_chose():
    import_plugins(load_config(CONFIG))
    assert gc.get_threshold() == (1234, 5, 6)
