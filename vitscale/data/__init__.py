"""From tar shards to batches of bytes on the device; the only room that knows WebDataset."""
