"""Datasets as training reads them: COCO, ADE20K and the synthetic one."""
