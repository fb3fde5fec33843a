"""The documents, and the site that is built from them."""
