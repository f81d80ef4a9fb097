// Facts about the memory of a framework's tensors, through DLPack's exchange API.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>
#include <vector>

namespace novograd {

// Returns what a plan depends on, and the addresses as 64-bit numbers; see _native.pyi.
std::pair<nanobind::bytes, nanobind::bytes> described(const nanobind::capsule& exchange,
                                                      const nanobind::tuple& types,
                                                      const std::vector<nanobind::object>& columns);

}  // namespace novograd
