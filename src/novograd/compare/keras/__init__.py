"""What the built-in tasks need of Keras, with any backend: networks and losses."""
