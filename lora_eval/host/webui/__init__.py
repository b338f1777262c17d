"""AUTOMATIC1111 and Forge as hosts."""
