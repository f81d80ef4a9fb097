"""Networks and losses of the built-in tasks, in Keras with any Keras backend."""
