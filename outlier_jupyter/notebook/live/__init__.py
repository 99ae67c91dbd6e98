"""The live view: events of a run become frames, and frames become a widget's messages."""
