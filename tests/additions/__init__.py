"""One addition of every kind, made to a copy of this tree: two files and a test, and no other file knows of it.

``python -m tests.additions`` copies the tree, lays `files` over it and shows that each addition is found by what it was
made for, and that a broken one is noticed. What lies in `files` is what CONTRIBUTING.md tells to copy.
"""
