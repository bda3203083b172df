"""Files for TensorRT, as far as they can be judged without it: types, operators, predictions."""

import json
import re
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from effvim.export import tensorrt_file
from effvim.export.settings import ExportSettings
from effvim.inference.predictor import Predictor
from effvim.inference.runtimes import OnnxRuntime, RuntimeChoices
from tests.helpers.cli import run_command
from tests.helpers.exports import KINDS, example_script, options_of
from tests.helpers.paths import ROOT

HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
of_each_kind = pytest.mark.parametrize(
    'trained', ['RetinaNet', 'RTMDet', 'EncoderDecoder'], indirect=True
)


def types_of(model):
    """The types of all values, as ONNX infers them from those of the inputs and constants."""
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {item.name: item.data_type for item in graph.initializer}


def last_steps(graph):
    """The nodes behind the last layers, back from the outputs."""
    made_by = {name: node for node in graph.node for name in node.output}
    names = [value.name for value in graph.output]
    for name in names:
        node = made_by.get(name)
        if node is not None and node.op_type != 'Conv':
            names.extend(node.input)
            yield node


@of_each_kind
def test_a_file_for_tensorrt(trained, in_tensorrt):
    """It computes in 16 bits but for sums and boxes, and predicts what PyTorch does."""
    file, printed = in_tensorrt.file, in_tensorrt.printed
    assert {path.name for path in file.parent.iterdir()} == {file.name, f'{file.name}.json'}
    engine = str(file).replace('.trt.onnx', '.engine')
    assert f'trtexec --onnx={file} --stronglyTyped --saveEngine={engine}\n' in printed
    assert 'not verified in TensorRT' in printed and 'latency not measured' in printed
    assert printed.count('compared with PyTorch on 4 images') == 3

    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    types, graph = types_of(model), model.graph
    assert [types[value.name] for value in graph.input] == [SINGLE]
    assert {types[value.name] for value in graph.output} <= {SINGLE, onnx.TensorProto.INT64}
    computed = Counter((node.op_type, types[node.input[0]]) for node in graph.node)
    for name in ('LayerNormalization', 'Softmax', 'ReduceMean'):
        assert computed[name, SINGLE] and not computed[name, HALF]
    for name in ('Conv', 'MatMul', 'Gemm', 'Relu'):
        assert computed[name, HALF] and not computed[name, SINGLE]
    assert HALF not in {types[name] for node in last_steps(graph) for name in node.output}
    in_float32 = 4 * sum(value.numel() for value in trained.model.parameters())
    assert 0.4 * in_float32 < file.stat().st_size < 0.6 * in_float32

    page = (ROOT / 'docs/deployment.md').read_text()
    listed = re.search(r'operators in these files:([^.]*)\.', page)[1]
    assert {node.op_type for node in graph.node} <= set(re.findall(r'\w+', listed))

    image = next((trained.root / in_tensorrt.images).iterdir())
    options = options_of(KINDS[trained.kind])
    expected = Predictor(trained.config, trained.weights, options=options)(image)
    predicted = Predictor(file)(image)
    if trained.kind == 'EncoderDecoder':
        assert (predicted.label_map == expected.label_map).mean() > 0.99
        return
    assert len(predicted.boxes) == len(expected.boxes) >= 5
    np.testing.assert_allclose(predicted.scores, expected.scores, atol=1e-2)


@pytest.mark.parametrize('trained', ['EncoderDecoder'], indirect=True)
def test_metrics_of_a_file_for_tensorrt(trained, in_tensorrt, tmp_path):
    metrics = []
    for file in (trained.weights, in_tensorrt.file):
        argv = [trained.config, str(file), '--data-root', str(trained.root)]
        argv += ['--work-dir', str(tmp_path), '--out', str(tmp_path / 'm.json')]
        argv += ['--cfg-options', *options_of(KINDS[trained.kind])] * (file == trained.weights)
        assert run_command('test', argv) == 0
        metrics.append(json.loads((tmp_path / 'm.json').read_text())['mIoU'])
    assert metrics[1] == pytest.approx(metrics[0], abs=0.2) and metrics[0] > 1  # percent


def test_what_16_bits_cannot_hold_shows(tmp_path):
    """onnxruntime computes in float32 on a CPU; `Rounding` does not hide what overflows."""
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)).eval().requires_grad_(False)
    network.names = ('maps',)
    for layer, gain in zip(network, (1e3, 1e-3)):
        layer.weight.copy_(gain * torch.eye(3)[..., None, None])
        layer.bias.zero_()
    file = tmp_path / 'model.trt.onnx'
    image = np.full((1, 3, 8, 8), 100, np.float32)  # 100,000 between the layers
    tensorrt_file.write(network, torch.from_numpy(image), file, {'outputs': ['maps']}, True)
    hidden, shown = (
        runtime.finish(runtime.start(image))['maps']
        for runtime in (OnnxRuntime(str(file), RuntimeChoices()), tensorrt_file.Rounding(file))
    )
    np.testing.assert_allclose(hidden, image, rtol=1e-2)
    assert not np.isfinite(shown).any()
    image /= 10  # from here on both are right
    runtime = tensorrt_file.Rounding(file)
    np.testing.assert_allclose(runtime.start(image)['maps'], image, rtol=1e-2)


@pytest.mark.parametrize('suffix', ['.engine', '.plan'])
def test_an_engine_is_for_tensorrt(suffix, tmp_path, capsys):
    file = tmp_path / f'model{suffix}'
    file.write_bytes(b'ftrt')
    photo = tmp_path / 'a.jpg'
    Image.new('RGB', (64, 64)).save(photo)
    config = str(ROOT / 'configs/rtmdet_effvim_m1.py')
    out = str(tmp_path / 'results')
    for argv in (['test', str(file)], ['infer', config, str(file), str(photo), '--out', out]):
        assert run_command(*argv[:1], argv[1:]) == 2
        err = capsys.readouterr().err
        assert 'run it with TensorRT itself' in err and err.count('\n') == 1


@pytest.mark.parametrize(
    'flags, words',
    [
        (['--out', 'm.onnx', '--format', 'tensorrt'], '*.trt.onnx'),
        (['--out', 'm.trt.onnx', '--int8', '.'], '--int8 is for *.onnx and *.xml'),
    ],
)
def test_flags_that_contradict_each_other(flags, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / 'w.pth'
    torch.save({'state_dict': {'backbone.a': torch.zeros(1)}, 'meta': {}}, file)
    assert (
        run_command('export', [str(ROOT / 'configs/rtmdet_effvim_m1.py'), str(file), *flags]) == 2
    )
    err = capsys.readouterr().err
    assert words in err and err.count('\n') == 1


def test_a_format_that_is_named_decides():
    settings = ExportSettings(checkpoint='w.pth', out='m.trt.onnx', format='onnx')
    assert settings.runtime == 'onnxruntime' and not settings.is_fixed_size


def test_the_example_without_tensorrt(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'examples')
    monkeypatch.setitem(sys.modules, 'tensorrt', None)
    with pytest.raises(SystemExit) as ended:
        example_script('detect_tensorrt')
    assert 'needs tensorrt and cuda-python' in ended.value.code and '\n' not in ended.value.code
