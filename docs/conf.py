"""How Sphinx builds the site: `make docs` writes it to build/docs, with no network."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "outlier_jupyter"
project_copyright = "the outlier_jupyter authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "outlier_reference"]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# Docstrings hold Markdown's single backticks, which `outlier_reference` turns into literals.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries = False  # the page's own headings are enough

# A wrong target is an error (-W); links out of the site are not asked, for want of a network.

html_theme = "pydata_sphinx_theme"
html_title = "outlier_jupyter"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_end": ["search-button", "theme-switcher"],
    "navbar_persistent": [],
    "header_links_before_dropdown": 6,
    "navigation_depth": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
html_context = {"default_mode": "auto"}
html_sidebars = {
    page: []
    for page in ("benchmarks", "glossary", "troubleshooting", "faq", "models", "tutorial/*")
}
