"""Many runs beside each other: what parts them, what an expert does, what a setting costs."""
