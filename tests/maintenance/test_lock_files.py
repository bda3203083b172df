"""locks/ pins the tested versions, with hashes."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.paths import ROOT

LOCKED = {'python_version': '3.11', 'sys_platform': 'linux', 'platform_machine': 'x86_64'}
HASH = re.compile(r'--hash=sha256:[0-9a-f]{64}')


def entries(name):
    """Version and hashes by distribution."""
    text = (ROOT / f'locks/{name}.txt').read_text().replace('\\\n', ' ')
    pinned = {}
    for line in filter(None, (line.partition('#')[0].strip() for line in text.splitlines())):
        pin, *hashes = line.split()
        assert all(HASH.fullmatch(each) for each in hashes), line
        distribution, version = pin.split('==')
        pinned[canonicalize_name(distribution)] = version, hashes
    return pinned


BUILD, SOURCES, WHEELS = map(entries, ('build', 'sources', 'wheels'))


def test_versions_are_those_of_requirements():
    pins = [
        Requirement(line)
        for line in (ROOT / 'requirements.txt').read_text().splitlines()
        if line and not line.startswith('#')
    ]
    pins = {
        pin.name: next(iter(pin.specifier)).version
        for pin in pins
        if pin.marker is None or pin.marker.evaluate(LOCKED)
    }
    del pins['opencv-python']  # the headless one is locked instead
    assert pins == {
        name: version for name, (version, _) in (WHEELS | SOURCES).items() if name in pins
    }


@pytest.mark.parametrize('pinned', [BUILD, SOURCES, WHEELS], ids=['build', 'sources', 'wheels'])
def test_every_pin_has_hashes(pinned):
    assert pinned and all(hashes for _, hashes in pinned.values())


def test_packages_built_from_source():
    """Each has one file, the source package; the build tools are those of the final lock."""
    assert not WHEELS.keys() & SOURCES.keys()
    assert all(len(hashes) == 1 for _, hashes in SOURCES.values())
    assert BUILD == {name: WHEELS[name] for name in BUILD}
