"""Triton kernels, imported only when one is to run. A public file is the twin of the same one in kernels/."""
