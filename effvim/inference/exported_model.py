"""Run an exported file in place of the model that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from torch import Tensor

from effvim.config.runtime import RuntimeChoices
from effvim.inference.exported_file import ExportedFile, Placement, in_original
from effvim.inference.runtimes import Runtime


@MODELS.register_module()
class EffViMExportedModel(BaseModel):
    """An exported file with the `test_step` of mmdet's and mmseg's models.

    Args:
        source: the file's path.
        choices: how to run it, see `RuntimeChoices`.

    Attributes:
        about: the file's metadata, see `effvim.checkpoints.exported.description`.
        in_flight: how many images are worth computing at the same time.
    """

    def __init__(self, source: str, **choices: Any) -> None:
        super().__init__(BaseDataPreprocessor())  # as a config it would load mmdet's models
        self._set_file(ExportedFile.open(source, RuntimeChoices(**choices)))

    @classmethod
    def around(cls, runtime: Runtime, about: Mapping[str, Any]) -> EffViMExportedModel:
        """A model that runs in a given runtime, with the metadata that a file would have."""
        model = cls.__new__(cls)
        BaseModel.__init__(model, BaseDataPreprocessor())
        model._set_file(ExportedFile(runtime, about))
        return model

    def _set_file(self, file: ExportedFile) -> None:
        self.file, self.about, self.in_flight = file, file.about, file.runtime.in_flight

    def start(self, image: Tensor) -> Any:
        """Begin to compute one image; see `ExportedFile.start`."""
        return self.file.start(image.numpy())

    def finish(self, job: Any) -> dict[str, Tensor]:
        """All outputs of an image by name, without the axis of the batch."""
        return {name: torch.as_tensor(value) for name, value in self.file.finish(job).items()}

    def run(self, image: Tensor) -> dict[str, Tensor]:
        """Compute one image, see `start` and `finish`."""
        return self.finish(self.start(image))

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = 'predict') -> Any:
        """Put predictions into each of the data samples, in pixels of the original images."""
        jobs = [self.start(image) for image in inputs]
        return self.collect(jobs, data_samples)

    def collect(self, jobs: Sequence[Any], data_samples: Sequence[Any]) -> Any:
        """Finish what was started, and put it into the data samples; see `forward`."""
        for job, sample in zip(jobs, data_samples):
            outputs = {name: value.numpy() for name, value in self.finish(job).items()}
            scale = tuple(sample.get('scale_factor', (1, 1)))
            place = Placement(sample.img_shape[:2], scale, sample.ori_shape[:2])
            found = in_original(outputs, place, self.about['settings'])
            if found.label_map is not None:
                sample.pred_sem_seg = PixelData(data=torch.from_numpy(found.label_map)[None])
                continue
            sample.pred_instances = InstanceData(
                bboxes=torch.from_numpy(found.boxes),
                scores=torch.from_numpy(found.scores),
                labels=torch.from_numpy(found.labels),
            )
            if found.masks is not None:
                sample.pred_instances.masks = torch.from_numpy(found.masks)
        return data_samples

    def test_step(self, data: Any) -> Any:
        """As in mmdet's and mmseg's models."""
        return self(**data)
