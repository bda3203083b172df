"""Checks at start-up that need no imports: are the packages this project's, what lacks a library.

The folder names `backbone/`, `mmdet_plugin/` and `mmseg_plugin/` are import names as well, and
other people's repositories often have a `backbone/` of their own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ('backbone', 'mmdet_plugin', 'mmseg_plugin')

MISSING_LIBRARY = re.compile(r'(lib\S+): cannot open shared object file')


def check_installation() -> str | None:
    """Say in one line what is wrong with the packages next to `effvim`; None if nothing is.

    Nothing is imported: a package that is not imported yet is only looked up.
    """
    home = Path(__file__).resolve().parents[1]
    for name in PACKAGES:
        location = _location(name)
        if location is None:
            return f'the package {name} is missing from {home}: install effvim anew'
        if location != home / name:
            return (
                f"another project's {name} is found first, {location} instead of {home / name}: "
                f'remove {location.parent} from PYTHONPATH, or run from another directory'
            )
    return None


def _location(name: str) -> Path | None:
    """The directory of the package that `import name` gives."""
    if name in sys.modules:
        module = sys.modules[name]
        paths = [*getattr(module, '__path__', []), getattr(module, '__file__', None)]
    else:
        spec = find_spec(name)
        paths = [*(spec.submodule_search_locations or []), spec.origin] if spec else [None]
    return Path(paths[0]).resolve() if paths[0] else None


def explain_import_error(error: BaseException) -> str | None:
    """Say in one line what to install after a failed import; None if that is not known.

    Known is the system library that OpenCV's desktop build needs and servers and containers lack.
    """
    for each in _chain(error):
        match = MISSING_LIBRARY.search(str(each))
        if match and (getattr(each, 'name', None) == 'cv2' or match[1].startswith('libGL')):
            return (
                f'OpenCV cannot be loaded, the system library {match[1]} is missing: run '
                f'"{sys.executable} -m pip install --force-reinstall --no-deps '
                f'opencv-python-headless", or "apt-get install libgl1 libglib2.0-0"'
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
