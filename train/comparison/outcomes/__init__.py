"""How the videos of a split were answered, task by task: metrics under any weights of the videos, errors, labels."""
