"""Versions of the packages that a result depends on."""

from __future__ import annotations

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

# The maintained continuation first, then the names of the originals.
PACKAGES = {
    'torch': ('torch',),
    'torchvision': ('torchvision',),
    'timm': ('timm',),
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmsegmentation': ('onedl-mmsegmentation', 'mmsegmentation'),
}


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on, e.g. mmdet: onedl-mmdetection 3.5.1."""
    installed = {'python': platform.python_version()}
    for package, names in PACKAGES.items():
        for name in names:
            with contextlib.suppress(PackageNotFoundError):
                installed.setdefault(package, f'{name} {version(name)}')
    return installed
