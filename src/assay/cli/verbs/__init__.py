"""The verbs: every file here is one. Its name is the verb's, the first line of its docstring the help, `run` the work.

`run` takes annotated parameters, prints its result on stdout and returns the exit code. To add a verb, add a file.
"""
