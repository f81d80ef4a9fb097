// One step for all tensors.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <utility>

#include "kernels.h"
#include "scalars.h"
#include "tensor.h"

namespace novograd {

// Updates target, momentum buffer and v of each layer, on up to `threads` threads. The result does
// not depend on the number of threads. There must be a linear pass for the dtypes, and for the
// blocks of a momentum buffer in int8. Memory that is
// written must not overlap other memory, except that a target may be its tensor's weights or
// gradient.
//
// If a tensor has `squares`, these are the squared norms of its layers, and `step` does not compute
// them. They may include elements that are stored elsewhere. So v of a layer without elements is
// updated too; without `squares`, such a layer is not changed.
void step(std::span<const Tensor> tensors, const Rule& rule, const Kernels& kernels, int threads);

// Whether there is a linear pass for the given layers and rows of a momentum buffer in int8. There
// is one if each piece of a layer consists of whole rows. If each row consists of whole pieces of
// all layers, there is one unless the pieces are so long that too many elements of a row must be
// done together.
bool has_quantised_pass(const Grid& grid, std::size_t row);

// Computes the squared norms as `step` does, with the same bits, and writes them to `squares`.
void square_sums(std::span<const Tensor> tensors, const Kernels& kernels, int threads);

// Returns the indices of two tensors where a step writes to memory of the other, or twice the index
// of one tensor that overlaps itself. Tensors of the same stride may lie in each other's gaps, as
// parts of one array do; for other tensors, gaps count as their memory. `squares` are not checked.
std::optional<std::pair<std::size_t, std::size_t>> overlap(std::span<const Tensor> tensors);

}  // namespace novograd
