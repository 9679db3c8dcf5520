"""The judge ``rubric``: the model scores its own images in words."""
