"""Small trained runs, and images in many formats."""

import json

import numpy as np
import pytest
from PIL import Image

from effvim.inference.saved_formats import FORMATS
from tests.helpers.grey import save_grey
from tests.helpers.runs import KINDS


@pytest.fixture(scope='module', params=KINDS)
def trained(request, run_of):
    """A small trained run of each kind."""
    return run_of(request.param)


@pytest.fixture(scope='module')
def detector(run_of):
    """A small trained RetinaNet."""
    return run_of('retinanet')


@pytest.fixture
def mess(detector, tmp_path):
    """A directory as people have them: one scene in many formats, and three corrupt files."""
    folder = tmp_path / 'mess'
    (folder / 'sub').mkdir(parents=True)
    image = Image.open(sorted(detector.val.iterdir())[0])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.convert('CMYK').save(folder / 'cmyk.jpg')
    Image.fromarray(np.uint16(image.convert('L')) * 257).save(folder / 'sixteen.png')
    image.convert('RGBA').save(folder / 'rgba.png')
    image.rotate(90, expand=True).save(folder / 'turned.jpg', exif=exif, quality=100)
    image.convert('P').save(folder / 'sub' / 'rgba.png')
    image.save(folder / 'whole.JPG')
    (folder / 'cut.jpg').write_bytes((folder / 'cmyk.jpg').read_bytes()[:900])
    (folder / 'text.jpg').write_text('a letter')
    (folder / 'empty.png').touch()
    (folder / 'notes.txt').write_text('not an image')
    return folder


@pytest.fixture
def grey(tmp_path, monkeypatch):
    """A network for greyscale images, in the current directory: grey.py and grey.pth."""
    monkeypatch.chdir(tmp_path)
    save_grey()


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """The current directory: images and videos."""
    for name in ('a.jpg', 'in/b.png', 'in/deep/c.jpg', 'lists/d.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(tmp_path / name)
    for name in ('v.mp4', 'in/w.MOV', 'in/deep/.hidden.mp4'):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def saved(detector, tmp_path):
    """The output directory for two images, one in a subdirectory, and COCO's results."""
    folder = tmp_path / 'in put'
    (folder / 'ünï').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ('a.png', 'ünï/b c.png'):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / name)
    flags = ['--json', '--score-thr', 0, '--save', *FORMATS]
    detector.infer(tmp_path / 'out', folder, *flags)
    results = json.loads((tmp_path / 'out/detections.bbox.json').read_text())
    return folder, tmp_path / 'out', results
