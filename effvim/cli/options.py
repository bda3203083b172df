"""What the command lines share: a parser whose errors are one line, and flags with one meaning."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from backbone.errors import UserError
from effvim.checkpoints import kinds
from effvim.checkpoints.kinds import has_model_suffix, is_model_file, refuse_engine
from effvim.config.packaged import check_config_exists, config_path, is_packaged
from effvim.config.runtime import PRECISIONS, RUNTIMES, RuntimeChoices

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Settings = TypeVar('Settings', bound='DataclassInstance')

CONFIG = 'config file, or the name of a packaged config, e.g. retinanet_effvim_m4'
WITHOUT_CONFIG = (
    'pass CONFIG before it only if it does not know its config, e.g. converted weights. The name '
    'of a packaged config without CHECKPOINT, e.g. retinanet_effvim_m4, means its published '
    'weights, which are downloaded once'
)
CHECKPOINT = f'{kinds.CHECKPOINT} or {kinds.EXPORTED}; {WITHOUT_CONFIG}'
EXPORTABLE = f'{kinds.CHECKPOINT}; {WITHOUT_CONFIG}'


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


OF_CHECKPOINT = "the checkpoint's, if the config of its training is there; else work_dirs/CONFIG"


def add_presets(parser: argparse.ArgumentParser, trained: bool = False) -> None:
    """Add `--mini` and `--from-scratch`.

    Args:
        parser: the command's.
        trained: the command takes a trained model instead of training one.
    """
    parser.add_argument(
        '--mini',
        action='store_true',
        help='build model and dataset as "effvim train --mini" does; a checkpoint of this project '
        'remembers it'
        if trained
        else 'use a synthetic dataset that is created on the spot, and train from scratch; shows '
        'that training learns, nothing more',
    )
    parser.add_argument(
        '--from-scratch',
        action='store_true',
        help='build the model as "effvim train --from-scratch" does; a checkpoint of this project '
        'remembers it'
        if trained
        else 'start from randomly initialised weights: train BN statistics, use group norm in '
        'neck and head, clip gradients',
    )


def add_data_root(parser: argparse.ArgumentParser) -> None:
    """Add `--data-root`."""
    parser.add_argument(
        '--data-root', metavar='DIR', help="root directory of the dataset (default: the config's)"
    )


def add_work_dir(parser: argparse.ArgumentParser, default: str = 'work_dirs/CONFIG') -> None:
    """Add `--work-dir`.

    Args:
        parser: the command's.
        default: what the working directory is by default, in words.
    """
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help=f'working directory for checkpoints, logs and images (default: {default})',
    )


def add_launcher(parser: argparse.ArgumentParser, refused: bool = False) -> None:
    """Add `--launcher` and what launchers pass.

    Args:
        parser: the command's.
        refused: the command is one process; its help does not show the flag.
    """
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm'],
        default='none',
        help=argparse.SUPPRESS
        if refused
        else 'job launcher that started this process: pytorch for torchrun, slurm for srun '
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


def add_tiling(parser: argparse.ArgumentParser) -> None:
    """Add `--tile` and `--overlap`."""
    parser.add_argument(
        '--tile',
        type=int,
        metavar='N',
        help='predict each image in overlapping tiles of N × N pixels and merge them, for images '
        "that are much larger than the network's input",
    )
    parser.add_argument(
        '--overlap',
        type=float,
        metavar='F',
        help='fraction of a tile that it shares with the next one, from 0, below 1 (default: 0.2)',
    )


def tiling_from(args: argparse.Namespace) -> dict[str, Any]:
    """`tile` and `overlap`, as far as they were given.

    Raises:
        UserError: one is out of range, or `--overlap` stands alone.
    """
    given = {k: v for k in ('tile', 'overlap') if (v := getattr(args, k)) is not None}
    if 'tile' in given:
        from effvim.config.tiling import Tiling

        Tiling(given['tile'], given.get('overlap', Tiling.overlap)).check()
    elif given:
        raise UserError('--overlap goes with --tile: add --tile N, e.g. 640, or drop it')
    return given


def add_runtime(parser: argparse.ArgumentParser, streams: int = 1) -> None:
    """Add the flags of `RuntimeChoices`; `streams` is what `runtime_from` takes by default."""
    group = parser.add_argument_group('how to run an exported file')
    group.add_argument(
        '--runtime',
        choices=RUNTIMES,
        help='what runs it (default: onnxruntime for *.onnx, openvino for *.xml)',
    )
    group.add_argument(
        '--device',
        metavar='NAME',
        help="OpenVINO's device: CPU, GPU, NPU, AUTO … (default: CPU)",
    )
    group.add_argument(
        '--precision',
        metavar='NAME',
        help=f'precision of OpenVINO: {", ".join(PRECISIONS)} (default: float32)',
    )
    group.add_argument(
        '--threads',
        type=int,
        metavar='N',
        help="number of threads of the CPU (default: PyTorch's choice, one for each core)",
    )
    group.add_argument(
        '--streams',
        type=int,
        metavar='N',
        help=f'number of images that OpenVINO computes at the same time; 0: as many as are best '
        f'(default: {streams})',
    )


def runtime_from(args: argparse.Namespace, path: str, many: bool) -> RuntimeChoices:
    """The choices of a command line of how to run a file.

    Args:
        args: the parsed command line.
        path: the file.
        many: many images are to be computed: by default as many at the same time as are best.

    Raises:
        UserError: they cannot be had, or not for this file.
    """
    choices = settings_from(args, RuntimeChoices)
    choices.check(path)
    if many and choices.streams is None and choices.runtime_of(path) == 'openvino':
        choices.streams = 0
    return choices


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
    The name of a packaged config without a checkpoint after it takes the place of a checkpoint: it
    means its published weights, see `packaged.published_or_given`. A word with the suffix of a
    checkpoint or exported file is always meant to be one.

    Args:
        words: the positional arguments.
        what: what follows, e.g. 'images'; '' if nothing may follow.
        required: at least one of `what` has to follow.

    Returns:
        The config's path, None if it was not given; the checkpoint's path, or a packaged config's
        name; what follows.

    Raises:
        UserError: a file is absent, the checkpoint was not given, too much or too little was, or
            there are no published weights.
    """
    first, *rest = words
    config = config_of(first)
    checkpoint = first
    published = _means_weights(first, rest) and not (rest and not what)
    if config and not published:
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
        raise UserError(f'no {what} were given: pass them after {checkpoint}')
    if published:
        from effvim.checkpoints.published import of_config

        of_config(first)
        return None, first, rest
    return config, checkpoint, rest


def _means_weights(first: str, rest: Sequence[str]) -> bool:
    """Whether the first argument is the name of a packaged config without a checkpoint after it."""
    return is_packaged(first) and not (rest and has_model_suffix(rest[0]))


class Model(NamedTuple):
    """One of several models.

    Attributes:
        word: what named it.
        config: the config's path; None if the checkpoint knows it.
        checkpoint: the path of a checkpoint or exported file.
        published: it is the published weights of a packaged config.
    """

    word: str
    config: str | None
    checkpoint: str
    published: bool


def split_models(words: Sequence[str]) -> list[Model]:
    """The models that the positional arguments [CONFIG] MODEL [MODEL …] name.

    Each MODEL is a checkpoint, an exported file, or the name of a packaged config, which means its
    published weights. CONFIG holds for the files. All words are checked before anything is fetched.

    Raises:
        UserError: a file is absent, CONFIG stands alone, or published weights cannot be had.
    """
    from effvim.checkpoints.fetching import fetch_for
    from effvim.checkpoints.published import of_config

    first, *rest = words
    config = config_of(first)
    if config and not _means_weights(first, rest):
        if not rest:
            raise UserError(f'no checkpoint was given: pass one after the config {first}')
        words = rest
    else:
        config = None
    published = [is_packaged(word) for word in words]
    for word, fetched in zip(words, published):
        if fetched:
            of_config(word)
        elif not Path(word).is_file():
            raise UserError(
                f'checkpoint {word} not found: pass existing files, or names of packaged configs '
                f'with published weights'
            )
    return [
        Model(word, config_path(word), str(fetch_for(word)), True)
        if fetched
        else Model(word, config, word, False)
        for word, fetched in zip(words, published)
    ]


def config_of(first: str) -> str | None:
    """The path of the config that a first argument names; None if it is an existing model file.

    Raises:
        UserError: there is no such config, or no such model file.
    """
    path = Path(first)
    refuse_engine(first)
    if is_model_file(first):
        return None
    if path.is_dir():
        newest = max(path.glob('*.pth'), key=lambda file: file.stat().st_mtime, default='')
        raise UserError(
            f'{first} is a directory: pass a file{f", e.g. {newest}" if newest else ""}'
        )
    if path.is_file() and path.suffix != '.py':
        raise UserError(
            f'{first} is neither a config (*.py) nor a {kinds.CHECKPOINT} nor an '
            f'{kinds.EXPORTED}: pass one of these first'
        )
    if has_model_suffix(first):
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
