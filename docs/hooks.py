"""What the site's build does to a page: README's sections put in, links fitted.

A line `<!-- README: HEADING -->` becomes what README.md says under that heading,
`<!-- README: HEADING / WORDS -->` the paragraphs there that begin with **WORDS.**, without these
words and up to the next that begin in bold; `<!-- README: top -->` what stands before the first
heading; `<!-- FILE: PATH -->` a whole page from elsewhere. So nothing is said twice in the
repository.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r'^<!-- README: (.+?)(?: / (.+?))? -->$', re.MULTILINE)
FILE = re.compile(r'^<!-- FILE: (\S+) -->$', re.MULTILINE)
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)')


def section(heading: str, words: str | None = None) -> str:
    """That part of README.md.

    Raises:
        ValueError: it has none.
    """
    text = (ROOT / 'README.md').read_text()
    top, *parts = re.split(r'^## ', text, flags=re.MULTILINE)
    found = {'top': top.split('\n', 1)[1]} | dict(part.split('\n', 1) for part in parts)
    if heading not in found:
        raise ValueError(f'README.md has no heading {heading!r}')
    if words is None:
        return found[heading].strip()
    told = re.findall(rf'^\*\*{re.escape(words)}\.\*\*(.*?)(?=^\*\*|\Z)', found[heading],
                      re.MULTILINE | re.DOTALL)
    if not told:
        raise ValueError(f'README.md has no paragraph **{words}.** under {heading!r}')
    return told[0].strip()


def fit(text: str, folder: Path) -> str:
    """Links of a text that lies in `folder`: those into docs/ as seen from there, others bare."""
    def fitted(match: re.Match[str]) -> str:
        mark, words, target, anchor = match.groups()
        path = (folder / target).resolve()
        if path.is_relative_to(ROOT / 'docs') and path.is_file():
            return f'{mark}[{words}]({path.relative_to(ROOT / "docs")}{anchor or ""})'
        return match[0] if not path.exists() else f'`{path.relative_to(ROOT)}`'

    return LINK.sub(fitted, text)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs with each page's text."""
    own = fit(markdown, Path(page.file.abs_src_path).parent)
    own = PLACE.sub(lambda match: fit(section(*match.groups()), ROOT), own)
    return FILE.sub(lambda match: fit((ROOT / match[1]).read_text(), (ROOT / match[1]).parent), own)
