"""The judge ``questions``: the model writes its own questions about a prompt, and answers them on the image."""
