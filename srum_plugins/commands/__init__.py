"""The commands of ``srum``, a module for each, or for several of one purpose."""
