"""Sphinx configuration: ``python -m sphinx -W -n docs docs/_build``, a warning is an error."""

from __future__ import annotations

import importlib.metadata

project = "lazychunks"
author = "the lazychunks authors"
copyright = "2026, the lazychunks authors"  # noqa: A001 -- the name is Sphinx's
release = importlib.metadata.version("lazychunks")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples"]
nitpicky = True

html_theme = "furo"
pygments_dark_style = "github-dark"  # the theme's own underlines what is imported
html_title = f"lazychunks {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]

myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = False
napoleon_use_rtype = False

# Signatures show these names; what they stand for is said where they are used.
autodoc_type_aliases = {
    "Chunks": "Chunks",
    "Compressors": "Compressors",
    "Coordinates": "Coordinates",
    "Destination": "Destination",
    "DTypeLike": "DTypeLike",
    "Extents": "Extents",
    "Filters": "Filters",
    "NDArray": "NDArray",
    "Sizes": "Sizes",
    "StoredArray": "StoredArray",
    "StoredGroup": "StoredGroup",
    "Values": "Values",
}

# References that resolve nowhere in these pages, by reason. Everything else must resolve.
nitpick_ignore_regex = [
    # Other projects: linking to them needs their inventories, and a build needs no network.
    (
        r"py:.*",
        r"(collections\.abc|dask|hypothesis|np|numpy|torch|types|zarr|typing(_extensions)?)\..*",
    ),
    (r"py:.*", r"Array|Client|Executor|JSON|SearchStrategy|Tensor"),
    # Type variables are no objects that a page could describe.
    (r"py:class", r"(lazychunks(\.\w+)+\.)?[A-Z]\d?(_co|_contra)?"),
    # Type aliases, shown by name (above).
    (r"py:class", "|".join(autodoc_type_aliases)),
    # What the functions that make folds return, and what `executor=` takes: the entries of these
    # say all there is.
    (r"py:class", r"(lazychunks(\.\w+)+\.)?(Concatenate|KeepsBlockType|Zarr(Group)?Sink)|Provider"),
    # What a driver of passes and its sinks say to each other: for readers of the source.
    (r"py:class", r"lazychunks\.(runs\.passes\.(Probe|Setup|Shelf)|layout\.partition\.ArrayPlan)"),
]
