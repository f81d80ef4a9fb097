// How the work on a tensor is divided: among threads, and within the work of a thread.
#pragma once

#include <algorithm>
#include <cstddef>

#include "tensor.h"

namespace novograd {

// Whether elements that are neighbours in memory belong to different layers: the columns of a
// matrix are the layers, or each element is a layer.
bool of_columns(const Tensor& tensor);

// Whether blocks of a momentum buffer in int8 have elements of several layers.
bool share_blocks(const Tensor& tensor);

// Whether threads share the work on a layer.
bool is_shared(const Tensor& tensor);

// Whether threads share columns: each takes some rows of all of them.
bool in_rows(const Tensor& tensor);

// Shared layers are cut into chunks of this number of elements; those of columns into chunks of
// this number of rows.
std::size_t chunk_size(const Tensor& tensor);

std::size_t chunks(const Tensor& tensor);

// Returns where the pass of a chunk begins in a layer. Blocks that share a scale are not cut: they
// belong to the chunk that has their first element.
std::size_t pass_start(const Tensor& tensor, std::size_t index);

// The number of layers that one thread does together. Columns lie in the same cache lines, and
// blocks have elements of several layers. Other layers are done one by one.
std::size_t together(const Tensor& tensor);

// The number of layers whose sums one thread does before their passes.
std::size_t summed_together(const Tensor& tensor);

// Calls `take(offset, length)` for each piece of memory that contains some of the `size` elements
// of a layer that begin at element `start`.
template <class Take>
void pieces(const Grid& grid, std::size_t layer, std::size_t start, std::size_t size,
            const Take& take) {
  if (size == 0) return;
  if (grid.runs == 1) return take(layer * grid.run + start, size);  // saves the divisions
  std::size_t within = start % grid.run;
  std::size_t offset = start / grid.run * grid.stride + layer * grid.run;
  for (const std::size_t end = start + size; start < end; offset += grid.stride, within = 0) {
    const std::size_t length = std::min(grid.run - within, end - start);
    take(offset + within, length);
    start += length;
  }
}

}  // namespace novograd
