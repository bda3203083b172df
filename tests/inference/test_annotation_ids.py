"""Results of `effvim infer --json` belong to the annotation file of their images."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbone import UserError
from effvim.inference.annotation_ids import ids_of
from effvim.inference.batch_inference import InferenceJob
from effvim.inference.prediction import Prediction

CLASSES = ('disc', 'cross')
BOX = (5, 6, 20, 10)  # x, y, width, height


def dataset(root, names, annotations='annotations/instances_val.json', prefix='val'):
    """Images with an object each; ids that follow no rule, categories in another order."""
    images, objects = [], []
    for i, name in enumerate(names):
        path = root / prefix / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (64, 48)).save(path)
        images.append(dict(id=900 - 7 * i, file_name=name, width=64, height=48))
        objects.append(
            dict(
                id=i + 1,
                image_id=900 - 7 * i,
                category_id=(30, 4)[i % 2],
                bbox=BOX,
                area=200,
                iscrowd=0,
            )
        )
    content = dict(
        images=images,
        annotations=objects,
        categories=[dict(id=4, name='cross'), dict(id=30, name='disc'), dict(id=7, name='other')],
    )
    file = root / annotations
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def prediction(label):
    x, y, width, height = BOX
    return Prediction(
        np.zeros((48, 64, 3), np.uint8),
        CLASSES,
        boxes=np.array([[x, y, x + width, y + height]], np.float32),
        scores=np.array([0.9], np.float32),
        labels=np.array([label]),
    )


@pytest.mark.parametrize(
    'names, layout, prefix',
    [
        (['b.png', 'a.png', '12.png'], 'annotations/instances_val.json', 'val'),
        (['b.png', 'a.png', '12.png'], 'annotations/instances_val.json', 'images/val'),
        (['b.png', 'a.png', '12.png'], 'val/_annotations.coco.json', 'val'),
        (['sub/b.png', 'sub/a.png', 'c.png'], 'annotations/instances_val.json', 'val'),
    ],
)
def test_pycocotools_takes_the_results(names, layout, prefix, tmp_path):
    file = dataset(tmp_path, names, layout, prefix)
    paths = sorted(tmp_path / prefix / name for name in names)
    job = InferenceJob(paths, tmp_path / 'out', CLASSES, json=True)
    for i, path in enumerate(paths):
        label = names.index(path.relative_to(tmp_path / prefix).as_posix()) % 2
        job.write(i, prediction(label))
    job.finish([job.outcome()])
    results = json.loads((tmp_path / 'out/detections.bbox.json').read_text())
    listed = {i['id']: i['file_name'] for i in json.loads(file.read_text())['images']}
    assert {r['image_id']: r['file_name'] for r in results} == listed
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(results), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0)


def test_a_file_that_does_not_fit(tmp_path, capsys):
    """Found by chance: a note, and numbers of our own. Asked for: an error."""
    file = dataset(tmp_path, ['a.png', 'b.png'])
    Image.new('RGB', (8, 8)).save(tmp_path / 'val/new.png')
    paths = sorted((tmp_path / 'val').iterdir())
    assert ids_of(paths, tmp_path / 'val', CLASSES) is None
    assert 'does not list the image' in capsys.readouterr().err
    with pytest.raises(UserError, match=r'does not list the image .*new.png'):
        ids_of(paths, tmp_path / 'val', CLASSES, file)
    with pytest.raises(UserError, match='does not list the class cat'):
        ids_of(paths[:1], tmp_path / 'val', ('cat',), file)
    for content in ('[]', '{"images": [{"id": 1}], "categories": []}'):
        (tmp_path / 'bad.json').write_text(content)
        with pytest.raises(UserError, match='is not an annotation file'):
            ids_of(paths[:1], tmp_path / 'val', CLASSES, tmp_path / 'bad.json')


def test_no_id_is_given_twice(tmp_path):
    file = dataset(tmp_path, ['a/0001.png'])
    (tmp_path / 'val/b').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'val/b/0001.png')
    paths = sorted((tmp_path / 'val').rglob('*.png'))
    with pytest.raises(UserError, match=r'one image for .*a/0001.png and .*b/0001.png'):
        ids_of(paths, tmp_path / 'val', CLASSES, file)


def test_images_without_an_annotation_file(tmp_path):
    for name in ('7.png', '12.png'):
        Image.new('RGB', (8, 8)).save(tmp_path / name)
    paths = sorted(tmp_path.iterdir())
    job = InferenceJob(paths, tmp_path / 'out', CLASSES, json=True)
    assert job.ids == [12, 7] and job.category_ids == [1, 2]
