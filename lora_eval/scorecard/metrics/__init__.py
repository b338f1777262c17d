"""One file per dimension: arrays in, numbers out. No torch, no files, no host."""
