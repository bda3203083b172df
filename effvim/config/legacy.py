"""Configs written by versions before 0.2: the names of that time become today's."""

from __future__ import annotations

from typing import Any

# Registered names and the storage backend, as they stand in configs and work directories.
RENAMED = {
    'CpuAmpOptimWrapper': 'EffViMCpuAmpOptimWrapper',
    'CurvesHook': 'EffViMCurvesHook',
    'EfficientViMLayerDecay': 'EffViMLayerDecay',
    'FullCocoMetric': 'EffViMCocoMetric',
    'FullIoUMetric': 'EffViMIoUMetric',
    'GuardHook': 'EffViMGuardHook',
    'PicturesHook': 'EffViMImagesHook',
    'ProgressHook': 'EffViMProgressHook',
    'ResumeHook': 'EffViMResumeHook',
    'WholeCheckpointHook': 'EffViMCheckpointHook',
    'WideRoIExtractor': 'EffViMSingleRoIExtractor',
    'whole_file': 'effvim_atomic',
}
NAMING_KEYS = ('type', 'constructor', 'backend')
ARGUMENTS = {('EffViMIoUMetric', 'leave_out'): 'ignored_classes'}


def rename_old_names(node: Any) -> None:
    """Replace the names of `RENAMED` in a config, in place."""
    for value in node.values() if isinstance(node, dict) else node:
        if isinstance(value, (dict, list)):
            rename_old_names(value)
    if isinstance(node, dict):
        for key in NAMING_KEYS:
            if isinstance(node.get(key), str):
                node[key] = RENAMED.get(node[key], node[key])
        for (kind, old), new in ARGUMENTS.items():
            if node.get('type') == kind and old in node:
                node[new] = node.pop(old)
