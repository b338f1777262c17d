"""What a WebUI loads: callbacks, settings and the axes of its X/Y/Z plot."""
