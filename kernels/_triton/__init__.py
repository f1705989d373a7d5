"""Triton kernels, imported only to run one. A public file implements the file of its name in kernels/."""
