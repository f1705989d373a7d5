"""`python run.py demo`: the pocket model streams into a local page where its prompt can be typed anew."""

from .cli import main

__all__ = ["main"]
