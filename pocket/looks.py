"""What things of the pocket world look like: the names that prompts are made of."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (50, 200, 60),
    "blue": (60, 90, 240),
    "yellow": (245, 225, 50),
    "magenta": (225, 60, 215),
    "cyan": (60, 220, 225),
}
SHAPES = ("circle", "square", "triangle")
