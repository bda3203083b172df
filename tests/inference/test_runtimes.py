"""Runtimes of exported files: what they are asked for, and what a user is told if it cannot be."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from backbone.errors import UserError
from effvim.config.runtime import RuntimeChoices
from effvim.inference.runtimes import open_runtime
from effvim.inference.small_runtimes import InTurn
from tests.helpers.cli import run_command
from tests.helpers.paths import ROOT

openvino = pytest.importorskip('openvino', reason='needs the extra openvino')

CONFIG = str(ROOT / 'configs/retinanet_effvim_m1.py')


def write_graph(path, op='Relu', **metadata):
    """A graph of one node of any size, as an ONNX file or as a pair of files of OpenVINO."""
    shape = ['b', 3, 'h', 'w']
    given = onnx.helper.make_tensor_value_info('images', onnx.TensorProto.FLOAT, shape)
    out = onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, shape)
    node = onnx.helper.make_node(op, ['images'], ['y'], name='the_node')
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], 'g', [given], [out]),
        ir_version=10,
        opset_imports=[onnx.helper.make_opsetid('', 18)],
    )
    onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in metadata.items()})
    content = model.SerializeToString()
    if path.suffix == '.onnx':
        path.write_bytes(content)
    else:
        openvino.save_model(openvino.Core().read_model(content), path)
    return str(path)


@pytest.mark.parametrize(
    ('suffix', 'choices'),
    [
        ('.onnx', {}),
        ('.onnx', dict(runtime='openvino')),
        ('.onnx', dict(device='cpu', threads=1)),
        ('.xml', {}),
        ('.xml', dict(streams=0, threads=2)),
        ('.xml', dict(streams=2, device='AUTO')),
    ],
    ids=str,
)
def test_batches_that_are_computed_at_the_same_time(suffix, choices, tmp_path):
    runtime = open_runtime(write_graph(tmp_path / f'm{suffix}'), RuntimeChoices(**choices))
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(1, 3, 4 + i, 9 - i)).astype(np.float32) for i in range(7)]
    jobs = [runtime.start(batch) for batch in batches]
    for batch, job in zip(batches, jobs):
        np.testing.assert_array_equal(runtime.finish(job)['y'], batch.clip(0))
    assert runtime.in_flight >= (choices.get('streams') or 1)


@pytest.mark.parametrize(
    ('name', 'flags', 'words'),
    [
        ('w.pth', ['--runtime', 'openvino'], ['--runtime', 'effvim export']),
        ('w.pth', ['--streams', '2'], ['--streams']),
        ('m.onnx', ['--precision', 'bfloat16'], ['--precision', '--runtime openvino']),
        ('m.onnx', ['--device', 'GPU'], ['--device', '--runtime openvino']),
        ('m.xml', ['--runtime', 'onnxruntime'], ['onnxruntime', 'm.xml']),
        ('m.xml', ['--threads', '0'], ['--threads', 'at least 1']),
        ('m.xml', ['--streams', '-1'], ['--streams', 'at least 0']),
        ('m.xml', ['--precision', 'int8'], ['--precision', 'effvim export --int8']),
        ('m.xml', ['--device', 'GPU', '--threads', '2'], ['--threads', 'GPU']),
        ('m.pte', ['--threads', '2'], ['--threads', 'ExecuTorch']),
    ],
    ids=str,
)
def test_choices_that_cannot_be_had(name, flags, words, tmp_path, capsys):
    path = tmp_path / name
    if name in ('w.pth', 'm.pte'):
        path.write_bytes(b'')
    else:
        write_graph(path)
    assert run_command('infer', [CONFIG, str(path), str(ROOT), '--out', str(tmp_path), *flags]) == 2
    err = capsys.readouterr().err
    assert all(word in err for word in words) and err.count('\n') == 1


def test_what_a_device_lacks(tmp_path):
    path = write_graph(tmp_path / 'm.xml')
    with pytest.raises(UserError, match=r'--device XPU: OpenVINO finds only .*CPU'):
        open_runtime(path, RuntimeChoices(device='xpu'))
    known = openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    for precision, name in (('bfloat16', 'BF16'), ('float16', 'FP16')):
        if name in known:
            open_runtime(path, RuntimeChoices(precision=precision))
        else:
            with pytest.raises(
                UserError, match=f'precision {precision}: this CPU computes only in'
            ):
                open_runtime(path, RuntimeChoices(precision=precision))


def test_a_file_without_its_weights(tmp_path, capsys):
    path = tmp_path / 'm.xml'
    write_graph(path, effvim={}, kind='RetinaNet', classes=['a'], weights='0' * 64)
    path.with_suffix('.bin').unlink()
    assert run_command('test', [CONFIG, str(path)]) == 2
    err = capsys.readouterr().err
    assert 'm.bin' in err and err.count('\n') == 1


def test_weights_of_another_file(tmp_path, capsys):
    path = tmp_path / 'm.xml'
    write_graph(path, effvim={}, kind='RetinaNet', classes=['a'], weights='0' * 64)
    assert run_command('test', [CONFIG, str(path)]) == 2
    err = capsys.readouterr().err
    assert 'm.bin does not hold the weights of' in err and err.count('\n') == 1


@pytest.mark.parametrize('content', [None, '', '<net', '<!DOCTYPE x [<!ENTITY a "a">]><x>&a;</x>'])
def test_files_of_other_programs(content, tmp_path, capsys):
    path = tmp_path / 'm.xml'
    write_graph(path)
    if content is not None:
        path.write_text(content)
    assert run_command('test', [CONFIG, str(path)]) == 2
    err = capsys.readouterr().err
    assert 'm.xml' in err and err.count('\n') == 1
    assert ('was not written by effvim export' in err) == (content is None)


def test_a_graph_that_openvino_rejects(tmp_path):
    path = write_graph(tmp_path / 'm.onnx', op='NoSuchOperator')
    with pytest.raises(UserError, match='NoSuchOperator') as caught:
        open_runtime(path, RuntimeChoices(runtime='openvino'))
    assert '\n' not in str(caught.value)


def test_without_openvino(tmp_path, monkeypatch):
    path = write_graph(tmp_path / 'm.xml')
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(UserError, match=r'pip install "\.\[openvino\]"'):
        open_runtime(path, RuntimeChoices())


def test_small_runtimes_compute_one_image_at_a_time():
    """Their interpreters are not made for several threads, which the web page has."""

    class Busy(InTurn):
        computing = 0

        def compute(self, images):
            self.computing += 1
            time.sleep(0.01)
            assert self.computing == 1
            self.computing -= 1
            return {'y': images}

    runtime = Busy()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(runtime.start, map(np.array, range(8))))
    assert [int(result['y']) for result in results] == list(range(8))
