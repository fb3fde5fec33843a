"""Whether cells compute here what their equations say."""
