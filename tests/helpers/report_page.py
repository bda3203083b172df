"""The HTML report of a run, parsed, with what it was rendered from."""

import contextlib
import io
from html.parser import HTMLParser

import pytest

from effvim.config.reading import import_plugins
from effvim.engine import runner
from effvim.evaluation import report as report_module
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


class Report:
    """The report of one kind of network, its figures, and the files of the test."""

    def __init__(self, run, folder):
        self.run, self.folder = run, folder
        argv = [run.config, run.checkpoint, '--report', folder / 'report', '--work-dir', folder]
        if run.kind != 'semfpn':
            argv += ['--cfg-options', f'+test_evaluator.outfile_prefix={folder}/test']
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
