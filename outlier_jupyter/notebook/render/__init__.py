"""Views of finished runs: Plotly figures, and static HTML that needs no kernel and no script."""
