"""The systems as their users call them; each file imports one library and nothing of ours.

A system is a class with four members: it is made of a model folder, a device, a data type and
its own settings; ``inputs(query, texts)`` makes what its users hand in; ``call(inputs)`` is what
they call, and the only part that is timed; ``scores(output)`` gives a score for each text, in
the texts' order.
"""
