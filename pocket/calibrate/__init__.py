"""Learns in which basis a model's cache can be kept small: `python run.py calibrate`."""

from .command import main

__all__ = ["main"]
