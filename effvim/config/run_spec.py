"""What a run is: the choices of its command line, as a checkpoint of it remembers them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backbone.errors import UserError

LARGEST_SEED = 2**31 - 1  # NumPy takes twice as much, and mmengine adds the number of a worker

# Written before version 0.2: key of the dictionary, field of `RunSpec`.
OLD_KEYS = {'overlays': 'presets'}


def _now() -> str:
    return time.strftime('%Y%m%d_%H%M%S')


@dataclasses.dataclass
class RunSpec:
    """The choices that make a run out of a config.

    Attributes:
        config: file name of the config, without its directory.
        presets: names of the presets that are applied to the config, see `config.presets`.
        data_root: root directory of the dataset; None: the config's.
        fitted: changes of the config that `train --data` derived from the data, by dotted key.
        options: changes of the config that the user asked for, by dotted key; '+' in front adds a
            key.
        batch: changes of the config that `train --auto-batch` made, by dotted key; applied last.
        amp: train in mixed precision.
        auto_scale_lr: scale the learning rate with the total batch size.
        ema: average the weights.
        seed: random seed; None: the config's.
        skip_bad_batches: how many batches with a non-finite loss or gradient may be skipped.
        began: mmengine's time stamp of the start, e.g. 20250131_235959.
        classes: class names by label; empty until the annotations were read.
    """

    config: str = ''
    presets: list[str] = dataclasses.field(default_factory=list)
    data_root: str | None = None
    fitted: dict[str, Any] = dataclasses.field(default_factory=dict)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    batch: dict[str, Any] = dataclasses.field(default_factory=dict)
    amp: bool = False
    auto_scale_lr: bool = False
    ema: bool = False
    seed: int | None = None
    skip_bad_batches: int = 0
    began: str = dataclasses.field(default_factory=_now)
    classes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def asked(
        cls,
        config: str | None = None,
        *,
        mini: bool = False,
        from_scratch: bool = False,
        data_root: str | Path | None = None,
        options: Mapping[str, Any] | None = None,
        **choices: Any,
    ) -> RunSpec:
        """The spec that flags ask for; `choices` are further fields.

        Raises:
            UserError: `mini` together with `data_root`.
        """
        if mini and data_root:
            raise UserError(
                '--mini brings its own synthetic dataset: drop --data-root, or drop --mini'
            )
        return cls(
            config=Path(config).name if config else '',
            presets=['from_scratch', 'mini'] if mini else ['from_scratch'] * from_scratch,
            data_root=str(Path(data_root).absolute()) if data_root else None,
            options=dict(options or {}),
            **choices,
        )

    def to_dict(self) -> dict[str, Any]:
        """The spec as checkpoints and exported files hold it."""
        return {'format': 2, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunSpec:
        """The spec that `to_dict` wrote, in this or an earlier version; other keys are dropped."""
        named = {OLD_KEYS.get(key, key): value for key, value in content.items()}
        fields = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in named.items() if key in fields})

    def adopt(self, trained: Mapping[str, Any], seed: int | None, path: str) -> RunSpec:
        """The spec of a run on a checkpoint: as it was trained, with what this one asks for anew.

        Args:
            trained: what the checkpoint says of its training, see `checkpoint.describe`; empty for
                checkpoints of other programs, about which this spec alone decides.
            seed: the random seed that the checkpoint was trained with.
            path: the checkpoint's, for messages.

        Raises:
            UserError: a choice contradicts the checkpoint.
        """
        if not trained:
            chosen = self.seed if self.seed is not None else self.options.get('randomness.seed')
            return dataclasses.replace(self, seed=seed if chosen is None else chosen)
        old = RunSpec.from_dict(trained)
        flags = {
            '--mini': 'mini' in self.presets and 'mini' not in old.presets,
            '--from-scratch': 'from_scratch' in self.presets and 'from_scratch' not in old.presets,
            '--amp': self.amp and not old.amp,
            '--auto-scale-lr': self.auto_scale_lr and not old.auto_scale_lr,
            '--ema': self.ema and not old.ema,
        }
        for flag, contradicts in flags.items():
            if contradicts:
                raise UserError(f'{path} was trained without {flag}: drop the flag')
        if any(
            asked not in (None, seed)
            for asked in (
                self.seed,
                self.options.get('randomness.seed'),
            )
        ):
            raise UserError(f'{path} was trained with seed {seed}: resume without another one')
        if 'mini' in old.presets and self.data_root:
            raise UserError(f'{path} was trained on the synthetic dataset: drop --data-root')
        # a repeated command keeps the batch that was chosen for it, another choice replaces all
        anew = {
            key.removeprefix('+')
            for key, value in self.options.items()
            if key not in old.options or old.options[key] != value
        }
        return dataclasses.replace(
            old,
            seed=seed,
            batch={} if anew & old.batch.keys() else old.batch,
            skip_bad_batches=self.skip_bad_batches or old.skip_bad_batches,
            data_root=self.data_root or old.data_root,
            options={**old.options, **self.options},
        )


@dataclasses.dataclass(kw_only=True)
class ModelChoices:
    """What every command on a config or checkpoint can be asked for.

    Attributes:
        config: path or name of a config; None for the one that a checkpoint was trained with.
        mini: use the synthetic dataset, and train from scratch.
        from_scratch: start from randomly initialised weights.
        data_root: root directory of the dataset; None: the config's, or as in training.
        work_dir: working directory; None: the config's, or work_dirs/ and the config's name.
        options: overrides of the config, by dotted key.
    """

    config: str | None = None
    mini: bool = False
    from_scratch: bool = False
    data_root: str | Path | None = None
    work_dir: str | Path | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def asked(self, **choices: Any) -> RunSpec:
        """The spec that the choices ask for, see `RunSpec.asked`."""
        return RunSpec.asked(
            self.config,
            mini=self.mini,
            from_scratch=self.from_scratch,
            data_root=self.data_root,
            options=self.options,
            **choices,
        )
