"""Makes the pages of ``docs/reference`` from the code that they describe. Part of the repository, of no distribution.

``python -m docgen`` writes them; a test says where what is committed is not what the code gives.
"""
