"""Pictures of finished runs: Plotly figures, and HTML that needs no kernel and no script."""
