"""Published scores of EfficientViM and of other backbones, for the figures and tables."""

from __future__ import annotations

# Box AP on COCO val2017 after 12 epochs as (RetinaNet, Mask R-CNN), from the repositories of the
# networks that timm has. Those of EfficientViM are in the headers of the configs.
BOX_AP = {
    'shvit_s4': (38.8, 39.0),
    'repvit_m1_1': (None, 39.8),
    'efficientvit_m4': (32.7, None),
    'poolformer_s12': (36.2, 37.3),
    'resnet50': (36.5, 38.2),
}

# Top-1 accuracy of EfficientViM on ImageNet after 300 epochs, after 450 epochs, and distilled,
# from arXiv 2411.15241.
TOP1 = {
    'm1': (72.9, 73.5, 74.6),
    'm2': (75.4, 75.8, 76.7),
    'm3': (77.6, 77.9, 79.1),
    'm4': (79.4, 79.6, 80.7),
}
