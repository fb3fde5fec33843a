"""The figures of single studies: one program each, named like the experiment that it draws."""
