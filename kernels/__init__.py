"""Numerical operations. Each public file is a contract and its reference in plain torch.

rope    turn queries and keys by their position
"""
