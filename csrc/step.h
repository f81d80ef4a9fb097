// One step of all tensors.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <utility>

#include "kernels.h"
#include "scalars.h"
#include "tensor.h"

namespace novograd {

// Updates target, moment and v of each layer, on up to `threads` threads. The result does not
// depend on their number. There must be a linear pass for the dtypes, and no memory that is written
// may overlap any other, but for a target that is its tensor's weights or gradient.
//
// Where a tensor has `squares`, these are the sums of the squares of its layers' gradients, and
// none are computed. They may be of more than what lies here: also of a layer without elements v is
// updated then. Otherwise such a layer is left alone.
void step(std::span<const Tensor> tensors, const Rule& rule, const Kernels& kernels, int threads);

// Writes the `squares` of each tensor: the same bits that `step` would compute.
void square_sums(std::span<const Tensor> tensors, const Kernels& kernels, int threads);

// Two tensors, by their numbers, of which one writes to memory of the other; or one, with itself.
// Strided tensors may lie in the gaps of one another if they have the same stride, as the parts of
// one array do; of any others the gaps count as theirs. Nothing is asked of `squares`.
std::optional<std::pair<std::size_t, std::size_t>> overlap(std::span<const Tensor> tensors);

}  // namespace novograd
