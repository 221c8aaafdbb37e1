"""Training: the outer loop, one trial from rung to rung, its cost and its memory."""
