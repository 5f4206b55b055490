"""Which video is in train, val or test, with which label, and what forbids it."""
