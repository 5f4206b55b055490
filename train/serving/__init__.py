"""What a run is for: scores of new videos, and models that leave the cache. The part of training that extracts."""
