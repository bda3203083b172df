"""The site builds without a warning and asks no other host for anything; what its pages say holds.

Commands of pages and README, in blocks and in sentences: each is parsed by the command's own
parser, and every file and config that it names exists. test_commands.py runs them.
"""

import ast
import importlib
import re
from html.parser import HTMLParser

import pytest

import effvim
from backbone import UserError
from effvim.checkpoints.kinds import has_model_suffix
from effvim.cli import main
from effvim.config.packaged import check_config_exists, config_path
from tests.helpers.documentation import (
    BLOCK,
    COMMANDS,
    PAGES,
    TEXTS,
    arguments,
    mentions,
    parsers,
)
from tests.helpers.paths import ROOT


def configs(args):
    """The configs that a parsed command line names."""
    if getattr(args, 'config', None):
        yield args.config
    model = getattr(args, 'model', None)
    if model and not has_model_suffix(model[0]):
        yield model[0]


@pytest.mark.parametrize('page, line', COMMANDS)
def test_commands_are_as_their_parsers_take_them(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    command, words = arguments(line)
    args = main.parse([command, *words])
    for config in configs(args):
        check_config_exists(config_path(config))
    for word in re.findall(r'\b(?:configs|tools|docs)/[\w/.-]+', line):
        assert (ROOT / word).exists()


def test_a_wrong_flag_or_config_is_noticed(monkeypatch):
    with pytest.raises(UserError, match='--fusee'):
        main.parse(['test', 'retinanet_effvim_m4', 'a.pth', '--fusee'])
    with pytest.raises(UserError, match='not found'):
        check_config_exists(config_path('retinanet_effvim_m44'))
    assert set(main.COMMANDS) <= {arguments(line)[0] for _, line in COMMANDS}


@pytest.mark.parametrize('page', TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_flags_that_sentences_name_exist(page):
    for command, words in mentions(page.read_text()):
        while words and f'{command} {words[0]}' in parsers():
            command, words = f'{command} {words[0]}', words[1:]
        known = {
            flag
            for name, parser in parsers().items()
            if name == command or name.startswith(f'{command} ')
            for action in parser._actions
            for flag in action.option_strings
        }
        named = {word for word in words if word.startswith('--')}
        assert named <= known, f'{command}: {named - known}'


def test_every_flag_is_documented():
    """Those of `effvim benchmark backbone|model` are described by their help."""
    text = ' '.join(page.read_text() for page in TEXTS)
    named = set(re.findall(r'--[a-z][\w-]*', text))
    for command, parser in parsers().items():
        if command.startswith('benchmark'):
            continue
        flags = {
            flag
            for action in parser._actions
            for flag in action.option_strings
            if flag.startswith('--') and action.help != '==SUPPRESS=='
        }
        assert flags - named <= {'--help', '--version'}, command


def test_files_that_pages_name_exist():
    for page in (*TEXTS, ROOT / 'CONTRIBUTING.md'):
        for path in re.findall(
            r'`((?:tests|docs|tools|locks|configs|maintenance)/[\w/.-]+)', page.read_text()
        ):
            assert (ROOT / path).exists(), f'{page.name}: {path}'


def test_links_of_files_outside_the_site_lead_to_files():
    for page in (ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'configs/gallery/README.md'):
        for target, anchor in re.findall(r'\]\(([^)#:\s]+)(?:#([^)\s]*))?\)', page.read_text()):
            path = page.parent / target
            assert path.exists(), f'{page.name}: {target}'
            if anchor:
                headings = re.findall(r'^#+ (.+)$', path.read_text(), re.MULTILINE)
                slugs = [
                    re.sub(r'[^\w -]', '', h).strip().lower().replace(' ', '-') for h in headings
                ]
                assert anchor in slugs, f'{page.name}: {target}#{anchor}'


def python_blocks():
    """Every Python block of the pages, with its page."""
    for page in TEXTS:
        for language, block in BLOCK.findall(page.read_text()):
            if language == 'python':
                yield pytest.param(block, id=f'{page.name}:{block.splitlines()[0][:40]}')


@pytest.mark.parametrize('block', python_blocks())
def test_python_blocks_import_what_exists(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):  # mmdet_plugin before mmdet's own
            for name in node.names:
                importlib.import_module(name.name)
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert [a.name for a in node.names if not hasattr(module, a.name)] == []
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == 'effvim':
            assert node.attr in effvim.__all__


def test_every_package_is_in_the_architecture():
    text = (ROOT / 'docs/architecture.md').read_text()
    for path in (ROOT / 'effvim').iterdir():
        if path.is_dir() and any(path.glob('*.py')):
            assert f'`{path.name}`' in text, path


def test_readme_is_a_front_door():
    assert (ROOT / 'README.md').stat().st_size <= 8192


def test_targets_of_make_exist():
    rules = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    named = {
        name
        for page in [*PAGES, ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']
        for name in re.findall(r'(?:^|`)make\s([\w-]+)', page.read_text(), re.MULTILINE)
    }
    assert named and named <= rules


def messages():
    """Fixed parts of all strings of the code, holes as …, neighbours joined."""
    for folder in ('effvim', 'backbone', 'mmdet_plugin', 'mmseg_plugin'):
        for path in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield ''.join(
                        value.value if isinstance(value, ast.Constant) else '…'
                        for value in node.values
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
        self.sources = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ('script', 'img', 'iframe', 'source', 'video', 'audio'):
            self.sources.append(attrs.get('src'))
        if tag == 'link' and attrs.get('rel') != 'canonical':
            self.sources.append(attrs.get('href'))


def test_every_page_is_in_the_site(site):
    assert {p.stem for p in site.glob('*.html')} >= {p.stem for p in PAGES}
    navigation = (ROOT / 'mkdocs.yml').read_text()
    assert all(f': {page.name}\n' in navigation for page in PAGES)
    gallery = (site / 'gallery.html').read_text()
    assert all(p.stem in gallery for p in (ROOT / 'configs/gallery').glob('*.py'))
    models = (site / 'models.html').read_text()
    assert all(p.stem in models for p in (ROOT / 'configs').glob('*.py'))
    assert 'A ⊙ B̂' in (site / 'examples.html').read_text()
    api = (site / 'api.html').read_text()
    assert 'id="backbone.EfficientViM"' in api and 'stochastic depth' in api


def test_nothing_is_fetched_from_another_host(site):
    pages = list(site.rglob('*.html'))
    for page in pages:
        reader = Fetched()
        reader.feed(page.read_text())
        assert reader.sources and not [x for x in reader.sources if x and '//' in x], page.name
    for sheet in site.rglob('*.css'):
        assert not re.search(r'(@import|url\()\s*["\']?(https?:)?//', sheet.read_text()), sheet
