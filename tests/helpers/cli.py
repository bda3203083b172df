"""Commands of `effvim`, run in this process."""

from collections.abc import Sequence
from typing import Any

from effvim.cli import main


def run_command(command: str, argv: Sequence[str] = ()) -> int:
    """Run `effvim COMMAND ARGV…` and return its exit status."""
    return main.run([command, *argv])


def prepared_training(argv: Sequence[str]) -> tuple[Any, Any]:
    """The config and the `RunSpec` with which `effvim train ARGV…` would run."""
    from effvim.cli import train
    from effvim.engine.training import prepare_training

    prepared = prepare_training(train.settings_of(main.parse(['train', *argv])))
    return prepared.cfg, prepared.spec


def prepared_testing(argv: Sequence[str]) -> tuple[Any, Any]:
    """The config and the `RunSpec` with which `effvim test ARGV…` would run."""
    from effvim.cli import test
    from effvim.engine.testing import prepare_evaluation

    prepared = prepare_evaluation(test.settings_of(main.parse(['test', *argv])))
    return prepared.cfg, prepared.spec
