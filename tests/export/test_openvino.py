"""Files of OpenVINO: equal to PyTorch and to onnxruntime, as they are and as commands use them."""

import json

import mmcv
import pytest
from PIL import Image

from effvim.checkpoints import exported
from effvim.checkpoints.kinds import weights_of
from effvim.config.editing import parse_options
from effvim.config.reading import load_config
from effvim.export import openvino_file, parity
from effvim.inference.predictor import Predictor
from tests.helpers.cli import run_command
from tests.helpers.exports import KINDS, options_of

openvino = pytest.importorskip('openvino', reason='needs the extra openvino')
# the fastest to export; tests/slow/test_every_config.py runs the ONNX files of all in OpenVINO
pytestmark = pytest.mark.parametrize('trained', ['EncoderDecoder'], indirect=True)


def metrics(made, file, folder, *flags):
    argv = [made.config, str(file), '--data-root', str(made.root), '--work-dir', str(folder)]
    assert run_command('test', [*argv, '--out', str(folder / 'm.json'), *flags]) == 0
    return json.loads((folder / 'm.json').read_text())


def test_metrics_of_every_format_and_runtime(made, in_openvino, tmp_path):
    expected = pytest.approx(metrics(made, made.file, tmp_path), abs=0.2)  # percent
    assert metrics(made, made.file, tmp_path, '--runtime', 'openvino') == expected
    assert metrics(made, in_openvino, tmp_path) == expected
    assert metrics(made, in_openvino, tmp_path, '--streams', '2', '--threads', '1') == expected


def test_weights_of_half_size_unless_they_change_the_results(
    made, in_openvino, tmp_path, monkeypatch, capsys
):
    file = tmp_path / 'full.xml'
    monkeypatch.setattr(parity, 'HALF_SIZE', 0)  # nothing may differ
    monkeypatch.setattr(parity, 'HALF_SIZE_FAULTS', 0)
    assert run_command('export', [*made.argv, '--out', str(file)]) == 0
    assert 'they stay in full size' in capsys.readouterr().err
    sizes = [weights_of(str(path)).stat().st_size for path in (file, in_openvino)]
    assert sizes[0] == pytest.approx(2 * sizes[1], rel=0.05)


def images_of(made):
    return sorted((made.root / 'images/validation').glob('*'))


def test_predictions_in_every_runtime_and_on_any_number_of_streams(made, in_openvino):
    images = images_of(made)
    pairs = [(made.file, dict(runtime='openvino'), Predictor(made.config, made.file)(images))]
    expected = Predictor(in_openvino)(images)
    pairs += [(in_openvino, dict(streams=streams), expected) for streams in (0, 2)]
    for file, choices, expected in pairs:
        predicted = Predictor(file, **choices)(images)
        for ours, theirs in zip(predicted, expected, strict=True):
            assert (ours.label_map == theirs.label_map).mean() > 0.999


def test_integers_of_8_bits(made, tmp_path, capsys, monkeypatch):
    file, seen, quantise = tmp_path / 'int8.xml', [], openvino_file.quantise
    monkeypatch.setattr(
        openvino_file,
        'quantise',
        lambda model, images, prepare: seen.extend(images) or quantise(model, images, prepare),
    )
    argv = [*made.argv[:2], '--int8', str(images_of(made)[0].parent), *made.argv[2:]]
    assert run_command('export', [*argv, '--out', str(file)]) == 0
    cfg = load_config(made.config)
    cfg.merge_from_dict(parse_options(options_of(KINDS[made.kind])))
    scale = cfg.test_dataloader.dataset.pipeline[1].scale
    sizes = [mmcv.rescale_size(Image.open(path).size, tuple(scale)) for path in images_of(made)]
    assert sorted(tuple(image.shape[:0:-1]) for image in seen) == sorted(sizes)  # as in the test
    in_float = json.loads(exported.xml_metadata(str(file))['float32'])
    assert any('conv_seg' in name for name in in_float)
    assert all(name.split('/')[0] in capsys.readouterr().out for name in in_float[:1])
    model = openvino.Core().read_model(file)
    weights = [op for op in model.get_ops() if op.get_type_name() == 'Constant']
    integers = [op for op in weights if op.get_output_element_type(0) == openvino.Type.i8]
    assert len(integers) > 3 * len(in_float)
    quantised = [op for op in model.get_ops() if op.get_type_name() == 'FakeQuantize']
    users = {
        user.get_node().get_type_name()
        for op in quantised
        for user in op.output(0).get_target_inputs()
    }
    assert 'Convolution' in users and users.isdisjoint(openvino_file.IN_FLOAT)
    before, after = (metrics(made, each, tmp_path)['mIoU'] for each in (made.file, file))
    assert after > before - 2 and before > 2  # percent
