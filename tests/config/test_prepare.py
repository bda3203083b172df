"""`prepare` on a checkpoint: the copy of the config that training wrote next to it, and others."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from backbone import UserError
from effvim.checkpoints import checkpoint as ckpt
from effvim.config.prepare import check_data, prepare
from effvim.config.reading import load_config
from effvim.config.run_spec import RunSpec
from effvim.export.metadata import metadata

CONFIG = 'retinanet_effvim_m1.py'


def prepared(path, **asked):
    return prepare(None, RunSpec.asked(**asked), ckpt.load(path), draw=False)


def test_a_copy_is_free_of_its_machine(trained_run):
    """It was trained by torchrun on a machine with TensorBoard, and copied to another directory."""
    path = trained_run(
        '--mini',
        launcher='pytorch',
        model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None),
        **{
            'visualizer.vis_backends': [
                dict(type=f'{kind}VisBackend') for kind in ('Local', 'Tensorboard')
            ]
        },
    )
    moved = Path(shutil.move('run', 'elsewhere')) / path.name
    run = prepared(moved)
    assert run.config == f'elsewhere/{CONFIG}'
    assert run.cfg.launcher == 'none' and 'model_wrapper_cfg' not in run.cfg
    assert [b.type for b in run.cfg.visualizer.vis_backends] == ['LocalVisBackend']
    assert run.work_directory() == Path('elsewhere')


def test_a_file_of_that_name_need_not_be_the_copy(trained_run):
    """A config of the user's own: what the checkpoint remembers is applied to it."""
    path = trained_run('--mini', '--cfg-options', 'model.test_cfg.score_thr=0.123')
    Path('run', CONFIG).unlink()
    packaged = load_config(prepare(CONFIG.removesuffix('.py'), RunSpec.asked(), draw=False).config)
    packaged.dump(f'run/{CONFIG}')
    run = prepared(path)
    assert run.config == f'run/{CONFIG}'
    assert run.cfg.model.test_cfg.score_thr == 0.123
    assert 'mini-coco' in run.cfg.test_dataloader.dataset.data_root


def exported(run, path, options=(), **changes):
    """The checkpoint's content as an exported file of it would be read."""
    options = dict(options)
    about = metadata(run.cfg, run.spec, 'RetinaNet', None, False, options) | changes
    import onnx

    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node('Identity', ['images'], ['boxes'])],
            'g',
            [onnx.helper.make_tensor_value_info('images', 1, [1])],
            [onnx.helper.make_tensor_value_info('boxes', 1, [1])],
        ),
        opset_imports=[onnx.helper.make_opsetid('', 18)],
        ir_version=10,
    )
    onnx.helper.set_model_props(model, {k: json.dumps(v) for k, v in about.items()})
    Path(path).write_bytes(model.SerializeToString())
    return Path(path)


def test_an_exported_file_applies_only_its_own_options(trained_run):
    """The copy may have lost a key that training was told of: --resume needs no weights."""
    option = 'model.backbone.init_cfg.checkpoint=weights.pth'
    path = trained_run('--mini', '--cfg-options', 'model.bbox_head.stacked_convs=3')
    content = torch.load(path, weights_only=False)
    content['meta']['effvim']['options'][option.partition('=')[0]] = 'weights.pth'
    torch.save(content, path)
    run = prepared(path, options={'model.test_cfg.score_thr': 0.25})
    file = exported(run, 'run/m.onnx', {'model.test_cfg.score_thr': 0.25})
    again = prepared(file)
    assert again.cfg.model.test_cfg.score_thr == 0.25
    assert again.cfg.model.bbox_head.stacked_convs == 3


def test_an_exported_file_holds_no_directory_of_this_machine(trained_run, tmp_path):
    from effvim.datasets.synthetic import draw_coco

    draw_coco(str(tmp_path / 'own'), num_train=6, num_val=2, size=64)
    path = trained_run(
        '--data',
        str(tmp_path / 'own'),
        '--from-scratch',
        '--cfg-options',
        f'train_dataloader.dataset.ann_file={tmp_path}/own/annotations/instances_train2017.json',
        'model.test_cfg.score_thr=0.25',
    )
    run = prepared(path)
    file = exported(run, 'm.onnx')
    assert str(tmp_path).encode() not in file.read_bytes()
    alone = prepared(file)  # not next to the copy
    assert alone.cfg.model.test_cfg.score_thr == 0.25
    # sizes that were fitted are tuples again
    steps = alone.cfg.test_dataloader.dataset.pipeline
    assert steps == run.cfg.test_dataloader.dataset.pipeline
    assert any(isinstance(step.get('scale'), tuple) for step in steps)
    with pytest.raises(UserError, match='m.onnx was trained on data of its own.*--data-root'):
        check_data(alone, ['test_dataloader'])
    known = prepared(file, data_root=tmp_path / 'own')
    check_data(known, ['test_dataloader'])
    beside = prepared(shutil.copy(file, 'run/m.onnx'))
    check_data(beside, ['test_dataloader'])


def test_fitted_names_of_an_exported_file_of_version_0_1(trained_run):
    """They were not written as Python writes them."""
    run = prepared(trained_run('--mini'))
    spec = run.spec.to_dict() | {
        'format': 1,
        'fitted': {'test_dataloader.dataset.type': 'CocoDataset'},
        'options': {'test_dataloader.dataset.pipeline.1.scale': '(320, 320)'},
    }
    run = prepared(exported(run, 'm.onnx', effvim=spec))
    assert run.cfg.test_dataloader.dataset.type == 'CocoDataset'
    assert run.cfg.test_dataloader.dataset.pipeline[1].scale == (320, 320)


def test_skipped_batches_of_a_resumed_run_need_one_process(trained_run):
    from effvim.engine.settings import TrainSettings
    from effvim.engine.training import prepare_training

    path = trained_run('--mini', '--skip-bad-batches', '3')
    content = torch.load(path, weights_only=False)
    content.update(optimizer={}, meta={**content['meta'], 'epoch': 1, 'iter': 4})
    torch.save(content, path)
    settings = TrainSettings(
        config=CONFIG.removesuffix('.py'),
        mini=True,
        work_dir='run',
        resume=path,
        launcher='pytorch',
    )
    with pytest.raises(UserError, match='--skip-bad-batches N takes a number from 0, on one'):
        prepare_training(settings)
