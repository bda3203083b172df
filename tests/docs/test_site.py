"""The site builds without a warning and asks no other host for anything; what its pages say holds.

Commands of pages and README, in blocks and in sentences: each is read by the parser of its own
tool, and every file and config that it names is there. tests/test_docs_commands.py runs them.
"""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from backbone import UserError
from effvim.cli.main import COMMANDS
from effvim.cli.options import Parser
from tests.helpers.paths import ROOT

PAGES = sorted((ROOT / 'docs').glob('*.md'))
TEXTS = [*PAGES, ROOT / 'README.md', ROOT / 'configs/gallery/README.md']  # what the site shows
TOOLS = {'convert_weights': 'convert'}  # files of tools/ by the module that parses
PLACES = {  # what a page leaves open, and what a reader may put there
    'CONFIG': 'configs/retinanet_effvim_m4.py',
    'CKPT': 'epoch_2.pth',
    'FILE': 'file.png',
    'SOURCE': 'a.pth',
    'DEST.safetensors': 'b.safetensors',
    'IMAGE|DIR|"GLOB"': 'picture.jpg',
    'PICTURES': 'pictures',
    '…': '',
    'RUN': 'work_dirs/a',
}
TOOL = r'(?:^|\s)(?:effvim|tools/\w+\.py|-m (?:effvim|backbone)\.\w+)\s'


def commands(text):
    """Calls of one of the tools with arguments, joined where they go on, without remarks."""
    blocks = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
    lines = [
        line.split('  #')[0]
        for language, block in blocks.findall(text)
        if language in ('', 'bash', 'sh')
        for line in block.replace('\\\n', ' ').splitlines()
    ]
    told = re.findall(r'`([^`]+)`', blocks.sub('', text))  # of which some only name a tool
    lines += [line for line in told if not re.fullmatch(r'effvim \w+', line)]
    for line in lines:
        line = ' '.join(line.split())
        if re.search(rf'{TOOL}\S', line):
            yield line


COMMANDS = sorted(
    {(str(page.relative_to(ROOT)), line) for page in TEXTS for line in commands(page.read_text())}
)


def arguments(line):
    """Module of effvim and arguments of a command line, its open places filled."""
    line = re.sub(r'\[CKPT …\]|\[CKPT\]', 'CKPT', line)
    for optional in re.findall(r'\[([^\]]*)\]', line):  # as if given, the first of choices
        line = line.replace(f'[{optional}]', optional.split(' | ')[0])
    for place, filled in PLACES.items():
        line = re.sub(rf'(?<!\S){re.escape(place)}(?!\S)', lambda _, new=filled: new, line)
    words = shlex.split(line)
    for i, word in enumerate(words):
        if match := re.fullmatch(r'tools/(\w+)\.py', word):
            assert (ROOT / word).is_file()
            return f'effvim.{TOOLS.get(match[1], match[1])}', words[i + 1 :]
        if word == 'effvim':
            assert words[i + 1] in COMMANDS
            return f'effvim.{words[i + 1]}', words[i + 2 :]
        if word.startswith(('effvim.', 'backbone.')):
            return word, words[i + 1 :]
    raise AssertionError(f'no tool in {line}')


def parsed(module, given, monkeypatch):
    """What the tool's own parser makes of the arguments; nothing is run."""

    class Parsed(Exception):
        pass

    def stop(self, args=None, namespace=None):
        found, rest = self.parse_known_args(args, namespace)
        if rest:
            self.error(f'unrecognized arguments: {rest}')
        raise Parsed(found)

    monkeypatch.setattr(Parser, 'parse_args', stop)
    monkeypatch.setattr('argparse.ArgumentParser.parse_args', stop)
    tool = importlib.import_module(module)
    with pytest.raises(Parsed) as found:
        tool.main(given)
    return found.value.args[0]


@pytest.mark.parametrize('page, line', COMMANDS)
def test_commands_are_as_the_tools_take_them(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    module, given = arguments(line)
    args = parsed(module, given, monkeypatch)
    assert not hasattr(args, 'config') or not args.config or os.path.isfile(args.config)
    for word in re.findall(r'\b(?:configs|tools|docs)/[\w/.-]+', line):
        assert (ROOT / word).exists()


def test_a_wrong_flag_or_config_is_seen(monkeypatch):
    with pytest.raises(UserError, match='--fusee'):
        parsed('effvim.test', ['retinanet_effvim_m4', 'a.pth', '--fusee'], monkeypatch)
    assert {f'effvim.{name}' for name in COMMANDS} | {'backbone.imagenet'} <= {
        arguments(line)[0] for _, line in COMMANDS
    }


def test_targets_of_make_exist():
    rules = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    named = {
        name
        for page in [*PAGES, ROOT / 'README.md']
        for name in re.findall(r'(?:^|`)make ([\w-]+)', page.read_text(), re.MULTILINE)
    }
    assert named and named <= rules


def messages():
    """Fixed parts of all strings of the code, holes as …, neighbours joined."""
    for folder in ('effvim', 'backbone', 'mmdet_plugin', 'mmseg_plugin'):
        for path in (ROOT / folder).glob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield ''.join(
                        part.value if isinstance(part, ast.Constant) else '…'
                        for part in node.values
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


QUOTED = re.findall(r'^\| `([^`]+)`', (ROOT / 'docs/troubleshooting.md').read_text(), re.MULTILINE)


def test_messages_of_troubleshooting_are_those_of_the_code():
    known = list(messages())
    assert len(QUOTED) > 20
    unknown = [
        quoted
        for quoted in QUOTED
        if not any(
            re.search('.*?'.join(map(re.escape, quoted.split('…'))), text, re.DOTALL)
            for text in known
        )
    ]
    assert not unknown


class Fetched(HTMLParser):
    """Collects what a browser fetches when it opens a page; links to be clicked are none of it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ('script', 'img', 'iframe', 'source', 'video', 'audio'):
            self.found.append(attrs.get('src'))
        if tag == 'link' and attrs.get('rel') != 'canonical':
            self.found.append(attrs.get('href'))


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)],
        cwd=ROOT,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'WARNING' not in done.stderr
    return folder


def test_every_page_is_in_the_site(site):
    assert {p.stem for p in site.glob('*.html')} >= {p.stem for p in PAGES}
    text = ''.join(p.read_text() for p in site.glob('*.html'))
    assert 'README:' not in text and 'FILE:' not in text
    gallery = (site / 'gallery.html').read_text()
    assert all(p.name in gallery for p in (ROOT / 'configs/gallery').glob('*.py'))
    assert 'A ⊙ B̂' in (site / 'pictures.html').read_text()
    api = (site / 'api.html').read_text()
    assert 'id="backbone.EfficientViM"' in api and 'stochastic depth' in api


def test_nothing_is_fetched_from_another_host(site):
    pages = list(site.rglob('*.html'))
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text())
        assert reader.found and not [x for x in reader.found if x and '//' in x], page.name
    for sheet in site.rglob('*.css'):
        assert not re.search(r'(@import|url\()\s*["\']?(https?:)?//', sheet.read_text()), sheet
