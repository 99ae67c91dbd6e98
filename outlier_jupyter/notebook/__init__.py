"""The only room that knows Jupyter: magics, the live view, figures, what a saved notebook shows."""
