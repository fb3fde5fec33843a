"""Whether somebody's module can be measured as what it is by a library call: its inputs, its calls and its loss."""
