"""The page of `effvim infer --show`."""

import http.client
import io
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from effvim.video.live_page import LivePage


def test_the_newest_frame_is_shown():
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 200
    with LivePage() as page:
        assert page.address.startswith('http://127.0.0.1:')
        with urllib.request.urlopen(page.address, timeout=10) as answer:
            assert b'<img src="/frames"' in answer.read()
        page.show(np.zeros_like(image))
        page.show(image)
        with urllib.request.urlopen(f'{page.address}/frames', timeout=10) as answer:
            kind = answer.headers['Content-Type']
            assert answer.readline() == b'--' + kind.split('boundary=')[1].encode() + b'\r\n'
            assert answer.readline() == b'Content-Type: image/jpeg\r\n'
            size = int(answer.readline().split(b': ')[1])
            assert answer.readline() == b'\r\n'
            shown = np.array(Image.open(io.BytesIO(answer.read(size)))).astype(int)
    assert shown.shape == image.shape and np.abs(shown - image).max() < 40


def test_other_pages_and_other_names_are_refused():
    with LivePage() as page:
        with pytest.raises(urllib.error.HTTPError, match='404'):
            urllib.request.urlopen(f'{page.address}/etc/passwd', timeout=10)
        connection = http.client.HTTPConnection(page.address.removeprefix('http://'), timeout=10)
        connection.request('GET', '/', headers={'Host': 'somewhere.example:80'})
        assert connection.getresponse().status == 403
        connection.close()
