"""Does the colour that was asked for stand out? A benchmark for srum-plugins."""
