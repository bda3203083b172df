"""Benchmarks: cases, timing, and one module for each subject that is measured."""
