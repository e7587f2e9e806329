"""What a pass decides, step by step: each a function of the situation and of what was decided before."""
