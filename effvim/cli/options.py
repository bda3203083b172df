"""What the command lines share: a parser whose errors are one line, and flags with one meaning."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from backbone.errors import UserError
from effvim.config.packaged import (
    MODEL_SUFFIXES,
    check_config_exists,
    config_path,
    is_model_file,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar('Settings', bound='DataclassInstance')

CONFIG = 'config file, or the name of a packaged config, e.g. retinanet_effvim_m4'
CHECKPOINT = (
    'checkpoint (*.pth, *.safetensors) or exported file (*.onnx); pass CONFIG before it only if '
    'it does not know its config, e.g. converted weights'
)


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its complaint instead of printing the usage and exiting."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault('formatter_class', argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault('allow_abbrev', False)  # --data of train is not --data-root of test
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with the message and where help is."""
        raise UserError(f'{message}; see {self.prog} --help')

    def nearest(self, word: str) -> str:
        """A question whether a flag like `word` was meant; empty if there is none."""
        near = difflib.get_close_matches(word.split('=')[0], self._option_string_actions, n=1)
        return f' (did you mean {near[0]}?)' if near else ''

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse; words that are left over are an error here, so that it names the subcommand.

        Positional arguments may stand on both sides of flags: argparse would take those before
        the first flag only.
        """
        parsed, rest = super().parse_known_args(args, namespace)
        if hasattr(parsed, 'model') and not any(word.startswith('-') for word in rest):
            parsed.model += rest
            rest = []
        if rest:
            self.error(f'unrecognized arguments: {" ".join(rest)}{self.nearest(rest[0])}')
        return parsed, rest


def key_value(text: str) -> str:
    """`text` if it is KEY=VALUE; an argparse type."""
    if '=' not in text or text.startswith('='):
        raise argparse.ArgumentTypeError(f'takes KEY=VALUE, got {text!r}')
    return text


def add_presets(parser: argparse.ArgumentParser) -> None:
    """Add `--mini` and `--from-scratch`."""
    parser.add_argument(
        '--mini',
        action='store_true',
        help='use a synthetic dataset that is created on the spot, and train from scratch; shows '
        'that training learns, nothing more',
    )
    parser.add_argument(
        '--from-scratch',
        action='store_true',
        help='start from randomly initialised weights: train BN statistics, use group norm in '
        'neck and head, clip gradients',
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add `--data-root` and `--work-dir`."""
    parser.add_argument(
        '--data-root', metavar='DIR', help="root directory of the dataset (default: the config's)"
    )
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='working directory for checkpoints, logs and images (default: work_dirs/CONFIG, or '
        "the checkpoint's directory if CONFIG is not given)",
    )


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """Add `--launcher` and what launchers pass."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm'],
        default='none',
        help='job launcher that started this process: pytorch for torchrun, slurm for srun '
        '(default: none)',
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options`."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        default=[],
        type=key_value,
        metavar='KEY=VALUE',
        help='override keys of the config, e.g. train_cfg.max_epochs=1; +KEY=VALUE adds a new key',
    )


def add_model(
    parser: argparse.ArgumentParser,
    words: str = '[CONFIG] CHECKPOINT',
    text: str = CHECKPOINT,
    flags: str = '[options]',
) -> None:
    """Add the positional arguments [CONFIG] CHECKPOINT …, which `split_model` takes apart.

    Args:
        parser: the command's.
        words: the positional arguments, as the usage shows them.
        text: what they are.
        flags: what stands behind them in the usage.
    """
    parser.usage = f'%(prog)s {words} {flags}'
    parser.add_argument('model', nargs='+', metavar=words, help=text)


def split_model(
    words: Sequence[str], what: str = '', required: bool = True
) -> tuple[str | None, str, list[str]]:
    """Config, checkpoint and the rest of the positional arguments [CONFIG] CHECKPOINT ….

    An existing checkpoint or exported file in first place is the model; anything else is a config.

    Args:
        words: the positional arguments.
        what: what follows, e.g. 'images'; '' if nothing may follow.
        required: at least one of `what` has to follow.

    Returns:
        The config's path, None if it was not given; the checkpoint's path; what follows.

    Raises:
        UserError: a file is absent, the checkpoint was not given, or too much or too little was.
    """
    first, *rest = words
    config = config_of(first)
    checkpoint = first
    if config:
        if not rest:
            raise UserError(f'no checkpoint was given: pass one after the config {first}')
        checkpoint, *rest = rest
        if not Path(checkpoint).is_file():
            raise UserError(
                f'checkpoint {checkpoint} not found: pass an existing file after CONFIG'
            )
    if rest and not what:
        raise UserError(f'unexpected argument {rest[0]}: pass [CONFIG] CHECKPOINT, then flags')
    if what and required and not rest:
        raise UserError(f'no {what} were given: pass them after the checkpoint {checkpoint}')
    return config, checkpoint, rest


def config_of(first: str) -> str | None:
    """The path of the config that a first argument names; None if it is an existing model file.

    Raises:
        UserError: there is no such config, or no such model file.
    """
    path = Path(first)
    if is_model_file(first):
        return None
    if path.is_dir():
        newest = max(path.glob('*.pth'), key=lambda file: file.stat().st_mtime, default='')
        raise UserError(
            f'{first} is a directory: pass a file{f", e.g. {newest}" if newest else ""}'
        )
    if path.is_file() and path.suffix != '.py':
        raise UserError(
            f'{first} is neither a config (*.py) nor a checkpoint (*.pth, *.safetensors) nor an '
            f'exported file (*.onnx): pass one of these first'
        )
    if Path(first).suffix.lower() in MODEL_SUFFIXES:
        raise UserError(f'checkpoint {first} not found: pass the path of an existing file')
    return existing_config(first)


def existing_config(name: str) -> str:
    """The path of a config that exists, from its path or packaged name.

    Raises:
        UserError: there is none.
    """
    path = config_path(name)
    check_config_exists(path)
    return path


def at_least(flag: str, value: float | None, least: float) -> None:
    """Raise if the value of a flag is too small; None is not.

    Raises:
        UserError: it is.
    """
    if value is not None and value < least:
        raise UserError(f'{flag} must be at least {least}, got {value}')


def settings_from(args: argparse.Namespace, kind: type[Settings], **changes: Any) -> Settings:
    """Fill a dataclass of settings with the arguments of the same names.

    Args:
        args: a parsed command line.
        kind: the dataclass.
        changes: fields that differ from the arguments, or have none.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in vars(args).items() if name in names}
    return kind(**{**given, **changes})
