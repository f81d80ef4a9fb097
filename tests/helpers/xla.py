"""XLA's options, which it reads from the environment."""

import os


def flags(*more):
    """Returns the value of XLA_FLAGS with more flags. The last value of a repeated flag counts."""
    return " ".join([os.environ.get("XLA_FLAGS", ""), *more]).strip()


def devices(count):
    """Returns the value of XLA_FLAGS with which the CPU counts as several devices."""
    return flags(f"--xla_force_host_platform_device_count={count}")
