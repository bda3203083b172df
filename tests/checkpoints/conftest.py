"""A server of published weights, files in the authors' layout, and an empty cache."""

import pytest

from tests.helpers import drive_server, published, weight_server

RAW, HUB = 'EfficientViM_M1_e450.pth', 'efficientvim_m1.e450_in1k.safetensors'


@pytest.fixture(scope='session')
def authors_m1(tmp_path_factory):
    """The authors' ImageNet file of M1: raw weights of seed 1, averaged ones of seed 2."""
    path = tmp_path_factory.mktemp('published') / RAW
    shapes = published.classifier_shapes('m1')
    with pytest.MonkeyPatch.context() as patch:
        raw, averaged = published.filled(shapes, 1), published.filled(shapes, 2)
        published.save_imagenet(path, raw, averaged, patch)
    return path


@pytest.fixture(scope='session')
def authors_retinanet(tmp_path_factory):
    """The authors' RetinaNet-M4, with COCO's classes."""
    from mmdet.datasets import CocoDataset

    path = tmp_path_factory.mktemp('published') / 'retinanet_effvim_m4.pth'
    state = published.filled(published.model_shapes(published.RETINANET, 'm4', 80))
    classes = CocoDataset.METAINFO['classes']
    published.save_openmmlab(path, state, 'mmdet', '2.25.0', classes, None)
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv('EFFVIM_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache/weights'


@pytest.fixture
def server(cache, monkeypatch):
    """A mirror without files."""
    with weight_server.serving() as running:
        monkeypatch.setenv('EFFVIM_MIRROR', running.url)
        yield running


@pytest.fixture
def m1(server, authors_m1):
    """A mirror with the authors' M1."""
    server.files[RAW] = authors_m1
    return server


@pytest.fixture
def retinanet(server, authors_retinanet):
    """A mirror with the authors' RetinaNet-M4."""
    server.files['retinanet_effvim_m4.pth'] = authors_retinanet
    return server


@pytest.fixture
def drive(cache, authors_m1, tmp_path, monkeypatch):
    """Google Drive with the authors' M1, and the proxy through which it is reached."""
    with drive_server.google_drive(tmp_path) as (running, proxy, environment):
        running.files['download'] = authors_m1
        monkeypatch.delenv('EFFVIM_MIRROR', raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield running, proxy
