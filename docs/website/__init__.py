"""The site: pages laid out for Sphinx, equations as outlines, the look."""
