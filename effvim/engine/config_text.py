"""Format the text of a config only when the config has changed.

mmengine asks for it three times when a run begins, and for each checkpoint; yapf takes a quarter
of a second. A config has no place of its own to remember its text, so its property is replaced.
"""

from __future__ import annotations

from mmengine.config import Config

MOST = 8  # texts that are remembered

_format = Config.pretty_text.fget
_texts: dict[str, str] = {}


def pretty_text(config: Config) -> str:
    """The text of a config as Python code."""
    content = repr(config._cfg_dict)
    if content not in _texts:
        if len(_texts) == MOST:
            _texts.clear()
        _texts[content] = _format(config)
    return _texts[content]


def install() -> None:
    """Let mmengine's configs remember their texts."""
    Config.pretty_text = property(pretty_text)
