"""The judge ``choice``: the model scores its own images by the probabilities of given answers."""
