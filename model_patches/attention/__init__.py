"""Positions, rotary tables, prompt keys and values, and Wan's forward over cached frames."""
