"""Models with masks or label maps on the page of `effvim demo`, and their exported files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client
from PIL import Image
from pycocotools import mask as rle

from effvim.inference.predictor import Predictor
from tests.helpers import demo_server
from tests.helpers.demo_server import ask
from tests.helpers.runs import TEST, call


@pytest.mark.parametrize('kind', ['mask_rcnn', 'semfpn'])
def test_checkpoint_and_exported_file(kind, run_of, scene, tmp_path):
    run, file, folder = run_of(kind), tmp_path / 'model.onnx', tmp_path / 'server'
    folder.mkdir()
    call('export', run.config, run.checkpoint, '--out', file, '--cfg-options', *TEST[kind])
    models = [shutil.copy(run.checkpoint, tmp_path), str(file)]
    with demo_server.serving(run, models, folder) as address:
        client = Client(address, verbose=False, analytics_enabled=False, download_files=tmp_path)
        for model in models:
            expected = Predictor(run.config, model, options=TEST[kind])(scene)
            answer = ask(client, scene, model)
            assert answer.usable == (True, True)
            np.testing.assert_array_equal(Image.open(answer.path), expected.draw(0))
            assert answer.content['checkpoint'] == Path(model).name
            if kind == 'mask_rcnn':
                objects = answer.content['objects']
                assert len(objects) == len(expected.boxes) == 20
                for one, mask in zip(objects, np.asarray(expected.masks)):
                    np.testing.assert_array_equal(rle.decode(one['segmentation']), mask)
                continue
            regions = answer.content['regions']
            assert sum(region['pixels'] for region in regions) == expected.label_map.size
            for region in regions:
                label = expected.classes.index(region['class'])
                found = rle.decode(region['segmentation'])
                np.testing.assert_array_equal(found, expected.label_map == label)
