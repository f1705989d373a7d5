"""What the demo shows unless it is told something else."""

PROMPT = "a red circle and a blue square on a green ground"
