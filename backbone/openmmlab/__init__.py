"""What knows mmengine and mmcv: registration, layer-wise learning rates, missing operators."""
