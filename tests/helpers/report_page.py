"""The HTML report of a run, parsed, with what it was rendered from."""

import contextlib
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from pycocotools import mask as rle

from effvim.config.reading import import_plugins
from effvim.engine import runner
from effvim.evaluation import report as report_module
from effvim.inference.predictor import Predictor
from tests.helpers.cli import prepared_testing


class Reader(HTMLParser):
    """Embedded images by id, tables by id, attributes and style sheets."""

    def __init__(self):
        super().__init__()
        self.images, self.tables, self.attributes, self.tags = {}, {}, [], []
        self.style, self.links, self.ids = '', [], set()
        self.rows = None

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs.items()]
        self.ids |= {attrs['id']} if 'id' in attrs else set()
        if tag == 'img':
            self.images[attrs['id']] = attrs['src']
        elif tag == 'table':
            self.rows = self.tables[attrs['id']] = []
        elif tag == 'tr':
            self.rows.append([])
        elif tag in ('td', 'th'):
            self.rows[-1].append('')

    def handle_data(self, data):
        if self.tags and self.tags[-1] == 'style':
            self.style += data
        elif self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()

    def handle_endtag(self, tag):
        if tag == 'table':
            self.rows = None


def partly_right(run, path):
    """Write a ground truth of the run's images that some of its predictions match; returns it.

    What a network that has hardly been trained predicts has no precision otherwise, and zeros
    equal zeros. The last class has no object.
    """
    content = json.loads((run.root / 'annotations/instances_val2017.json').read_text())
    content['annotations'] = annotations = []
    predictor = Predictor(run.config, run.checkpoint)
    for image in content['images']:
        prediction = predictor(run.val / image['file_name'])
        for i in range(4):  # spread over the scores, each cut by more than the one before
            x1, y1, x2, y2 = prediction.boxes[4 * i].tolist()
            x1 += 0.06 * i * (x2 - x1)
            annotation = dict(
                id=len(annotations) + 1,
                image_id=image['id'],
                category_id=1 if i < 3 and prediction.labels[4 * i] == 0 else 2,
                iscrowd=0,
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=(x2 - x1) * (y2 - y1),
                segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]],
            )
            if prediction.masks is not None:
                mask = np.asfortranarray(prediction.masks[4 * i], np.uint8)
                mask[:, : round(x1)] = 0
                code = rle.encode(mask)
                annotation['segmentation'] = {**code, 'counts': code['counts'].decode()}
            annotations.append(annotation)
    path.write_text(json.dumps(content))
    return content


class Report:
    """The report of one kind of network, its figures, and the files of the test.

    Attributes:
        ground_truth: of a detector, COCO's annotations.
    """

    def __init__(self, run, folder):
        self.run, self.folder = run, folder
        argv = [run.config, run.checkpoint, '--report', folder / 'report', '--work-dir', folder]
        if run.kind != 'semfpn':
            path = folder / 'ground_truth.json'
            self.ground_truth = partly_right(run, path)
            argv += ['--cfg-options', f'+test_evaluator.outfile_prefix={folder}/test']
            argv += [f'test_{of}.ann_file={path}' for of in ('evaluator', 'dataloader.dataset')]
        cfg, spec = prepared_testing([str(a) for a in argv])
        cfg.custom_hooks[-1].score_thr = 0.005  # keeps predictions of an untrained network
        import_plugins(cfg)
        self.figures = {}
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
            render = report_module.render

            def keep(title, table, sections):
                self.figures = {plot.id: plot.content for s in sections for plot in s.plots}
                return render(title, table, sections)

            patch.setattr(report_module, 'render', keep)
            running = runner.Runner(cfg, spec)
            running.load_checkpoint(str(run.checkpoint))
            self.numbers = running.test()
        self.text = (folder / 'report/report.html').read_text()
        self.page = Reader()
        self.page.feed(self.text)
