"""The pages of the documentation, the commands in them, and what their placeholders stand for."""

import functools
import re
import shlex

from effvim.cli import main
from tests.helpers import narrow
from tests.helpers.paths import ROOT
from tests.helpers.runs import ADE, TEST

PAGES = sorted((ROOT / 'docs').glob('*.md'))
TEXTS = [*PAGES, ROOT / 'README.md', ROOT / 'configs/gallery/README.md']
TOOLS = {'convert_weights': 'convert'}  # files of tools/ not named like their command
PLACEHOLDERS = {
    'CONFIG': 'configs/retinanet_effvim_m4.py',
    'my_config.py': 'configs/retinanet_effvim_m4.py',
    'CKPT': 'epoch_2.pth',
    'FILE': 'file.png',
    'SOURCE': 'a.pth',
    'DEST.safetensors': 'b.safetensors',
    '…': '',
}
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
TOOL = re.compile(r'(?:^|\s)(?:-m )?(effvim|tools/\w+\.py)\s')


def commands(text):
    """The complete commands of a page: of its shell blocks, and those in a sentence.

    A sentence that names a command without its arguments gives none, see `mentions`.
    """
    lines = [
        re.split(r'\s#', line)[0]
        for language, block in BLOCK.findall(text)
        if language in ('', 'bash', 'sh')
        for line in block.replace('\\\n', ' ').splitlines()
    ]
    lines += [code for code in inline_code(text) if positional(code)]
    for line in lines:
        line = ' '.join(line.split())
        if TOOL.search(f'{line} '):
            yield line


def mentions(text):
    """Names of a command in sentences, with or without flags: (command, flags)."""
    for code in inline_code(text):
        if TOOL.search(f'{code} ') and not positional(code):
            command, words = arguments(code)
            if command in main.COMMANDS:
                yield command, words


def inline_code(text):
    """What stands between single backquotes, joined over line ends."""
    return [' '.join(code.split()) for code in re.findall(r'`([^`]+)`', BLOCK.sub('', text))]


def positional(code):
    """Whether an `effvim …` in a sentence has arguments besides its command's name and flags."""
    if not TOOL.search(f'{code} '):
        return False
    command, words = arguments(code)
    while words and words[0] in subcommands(command):
        words = words[1:]
    flags = [i for i, word in enumerate(words) if word.startswith('-')]
    return bool(words[: flags[0] if flags else None])


@functools.cache
def parsers():
    """The parser of every command and, as 'data split', of every command of a command."""
    found = {}

    def collect(parser, name):
        found[name] = parser
        for action in parser._actions:
            for child, sub in (action.choices or {}).items() if is_subparsers(action) else ():
                collect(sub, f'{name} {child}'.strip())

    collect(main.build_parser(), '')
    return found


def is_subparsers(action):
    """Whether an argparse action is the choice of a command."""
    return type(action).__name__ == '_SubParsersAction'


def subcommands(command):
    """Names of the commands of a command, e.g. those of `effvim data`."""
    return {
        name.removeprefix(f'{command} ') for name in parsers() if name.startswith(f'{command} ')
    }


def arguments(line):
    """The command and the arguments of a command line, its placeholders filled in."""
    line = re.sub(r'\[CKPT …\]|\[CKPT\]', 'CKPT', line)
    for optional in re.findall(r'\[([^\]]*)\]', line):  # as if it is passed; the first of choices
        line = line.replace(f'[{optional}]', optional.split(' | ')[0])
    for placeholder, value in PLACEHOLDERS.items():
        line = re.sub(rf'(?<!\S){re.escape(placeholder)}(?!\S)', lambda _, value=value: value, line)
    words = shlex.split(line)
    for i, word in enumerate(words):
        if match := re.fullmatch(r'tools/(\w+)\.py', word):
            assert (ROOT / word).is_file(), line
            return TOOLS.get(match[1], match[1]), words[i + 1 :]
        if word == 'effvim':
            return ''.join(words[i + 1 : i + 2]), words[i + 2 :]
    raise AssertionError(f'no command of effvim in {line}')


COMMANDS = sorted(
    {(str(page.relative_to(ROOT)), line) for page in TEXTS for line in commands(page.read_text())}
)


def small(config, words):
    """Flags that make a training by a config a matter of seconds, besides those in `words`."""
    kind = next((kind for kind in TEST if kind in config), 'retinanet')
    options = [f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')]
    if '--data' in words:
        if 'load_from=' in ' '.join(words):  # as in the checkpoint
            options += narrow.RETINANET
        return ['--from-scratch', '--epochs', '1', '--cfg-options', *options]
    options += TEST[kind]
    options += (
        ADE
        if kind == 'semfpn'
        else ['train_cfg.max_epochs=2', 'default_hooks.checkpoint.interval=2']
    )
    options += ['train_dataloader.batch_size=2'] + [
        f'{split}_dataloader.dataset.pipeline.{step}.scale=(96,96)'
        for split, step in (('train', 2), ('val', 1), ('test', 1))
    ]
    return ['--from-scratch', '--cfg-options', *options]
