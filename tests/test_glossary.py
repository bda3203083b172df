"""README, docs, every `--help` and the code itself use the words of the field.

Each row of WORDS is a pattern that must not occur, and what to write instead. Code blocks, inline
code and quoted messages are not searched, nor is docs/benchmarks.md, whose commands are recorded.
"""

import ast
import io
import re
import tokenize

import pytest

from tests.helpers.documentation import BLOCK, TEXTS, parsers
from tests.helpers.paths import ROOT

WORDS = [
    (r'pictures?', 'image'),
    (r'data sets?', 'dataset'),
    (r'(?<!ground )(?<!ground-)truth', 'ground truth'),
    (r'go(es|ing)? on(?! (a|the|any|an) )', 'resume, continue'),
    (r'(leaves?|left|leaving) (it |them |\w+s )?out', 'skip, drop, ignore'),
    (r'leave (it |them |the \w+ |--[\w-]+ )?out', 'skip, drop, ignore; omit'),
    (r'beside(?!s)', 'next to, compared with'),
    (r'mend(s|ed|ing)?', 'fix, repair'),
    (r'surest', 'highest-scoring'),
    (r'who does not', 'a process that does not'),
    (r'drawn scenes?|embedded (scenes?|data ?sets?)', 'synthetic dataset'),
    (r'random weights alone', 'from scratch, randomly initialised'),
    (r'of all random numbers', 'random seed'),
    (r'map of pixels', 'label map, mask'),
    (r'what is found', 'predictions, detections'),
    (r'made[- ]up', 'generated, synthetic'),
    (r'part by part', 'stage by stage'),
    (r'no examples?', 'no instance'),
    (r'races?', 'benchmark, speed-up'),
    (r'if (it is |they are )?left out', 'default: …'),
    (r'without a name', 'default: …'),
    (r'several processes, who', 'ranks'),
    (r'written for exporters', 'tracing, graph'),
    (r'read back', 'verified'),
]
FORBIDDEN = [(re.compile(rf'\b(?:{pattern})\b', re.IGNORECASE), use) for pattern, use in WORDS]
EXEMPT = {'benchmarks.md'}
KEPT = ('EfficientViM embedded data set,',)  # written into files whose bytes stay the same
PROSE = [*(p for p in TEXTS if p.name not in EXEMPT), ROOT / 'CONTRIBUTING.md']


def complaints(text):
    """What of the table occurs in a text, with a few words around it."""
    text = ' '.join(text.split())
    return [
        f'"…{text[max(0, match.start() - 30) : match.end() + 30]}…": say {use}'
        for pattern, use in FORBIDDEN
        for match in pattern.finditer(text)
    ]


def prose(markdown):
    """A page without code blocks, inline code, links' targets and comments."""
    text = BLOCK.sub(' ', markdown)
    text = re.sub(r'<!--.*?-->|`[^`]+`', ' ', text, flags=re.DOTALL)
    return re.sub(r'\]\([^)]*\)', ']', text)


@pytest.mark.parametrize('page', PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_words_of_pages(page):
    assert not complaints(prose(page.read_text()))


@pytest.mark.parametrize('command', [name for name in parsers() if name])
def test_words_of_help(command):
    assert not complaints(parsers()[command].format_help())


def test_words_of_the_overview():
    assert not complaints(parsers()[''].format_help())


def test_the_table_is_applied():
    assert complaints('Drop a picture here') and complaints('beside the truth')
    assert complaints('3 images are left out') and complaints('leave --tta out')
    assert not complaints('the ground truth, besides, goes on a GPU')
    assert not complaints(prose('`picture` and\n```sh\neffvim data set\n```\n'))


def texts_of_code(path):
    """Docstrings, messages and comments of a source file."""
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ' ' in node.value:
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


CODE = sorted(
    path
    for folder in ('backbone', 'mmdet_plugin', 'mmseg_plugin', 'effvim', 'tools', 'maintenance')
    for path in (ROOT / folder).rglob('*.py')
)


@pytest.mark.parametrize('path', CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_words_of_code(path):
    found = {
        f'{path.name}:{line}: {complaint}'
        for line, text in texts_of_code(path)
        for complaint in complaints(text)
        if not text.startswith(KEPT)
    }
    assert not found
