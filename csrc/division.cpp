#include "division.h"

#include <algorithm>
#include <numeric>

#include "kernels.h"
#include "scalars.h"
#include "step.h"

namespace novograd {
namespace {

// All constants count elements. A chunk's three arrays fit in a core's cache. A shorter chunk would
// interrupt the processor's prefetching more often.
constexpr std::size_t chunk = 1 << 16;
// Threads do not share a layer of up to this size; its gradient is still in the cache for the pass.
constexpr std::size_t whole = 1 << 17;
// With momentum buffers in int8, about so many elements of a gradient are summed before their
// passes. These compute so much that memory can bring the next ones meanwhile.
constexpr std::size_t summed = 1 << 13;
// The fewest rows of a chunk of columns. Each chunk has a partial sum for each column.
constexpr std::size_t chunk_rows = 64;

bool share_blocks(const Grid& grid, std::size_t row) { return grid.run % row != 0; }

// The fewest layers whose elements of a row are whole blocks.
std::size_t fewest_together(const Grid& grid, std::size_t row) {
  if (row != grid.layers * grid.run) return grid.layers;
  return std::min(grid.layers, quantised_block / std::gcd(grid.run, quantised_block));
}

}  // namespace

bool of_columns(const Tensor& tensor) { return tensor.grid.run == 1; }

bool share_blocks(const Tensor& tensor) {
  return tensor.moment_dtype == Dtype::int8 && share_blocks(tensor.grid, tensor.rows.row);
}

bool has_quantised_pass(const Grid& grid, std::size_t row) {
  const std::size_t period = grid.layers * grid.run;
  if (!share_blocks(grid, row)) return true;
  if (row % period != 0 || (grid.runs > 1 && grid.stride != period)) return false;
  const std::size_t fewest = fewest_together(grid, row);
  return fewest <= group && fewest * grid.run <= longest_shared;
}

bool is_shared(const Tensor& tensor) {
  const bool together = of_columns(tensor) || share_blocks(tensor);
  return in_rows(tensor) || (tensor.grid.layer_size() > whole && !together);
}

bool in_rows(const Tensor& tensor) {
  return of_columns(tensor) && tensor.grid.runs >= 2 * chunk_rows &&
         tensor.grid.layers * tensor.grid.runs > whole;
}

std::size_t chunk_size(const Tensor& tensor) {
  return in_rows(tensor) ? std::max(chunk_rows, chunk / tensor.grid.layers) : chunk;
}

std::size_t chunks(const Tensor& tensor) {
  const std::size_t size = chunk_size(tensor);
  return (tensor.grid.layer_size() + size - 1) / size;
}

std::size_t pass_start(const Tensor& tensor, std::size_t index) {
  const std::size_t end = tensor.grid.layer_size();
  const std::size_t start = std::min(index * chunk_size(tensor), end);
  if (tensor.moment_dtype != Dtype::int8) return start;
  const std::size_t row = tensor.rows.row;
  if (in_rows(tensor)) {
    const std::size_t each = row / tensor.grid.layers;  // rows of columns in a row of blocks
    return std::min((start + each - 1) / each * each, end);
  }
  const std::size_t column = start % row, within = column % quantised_block;
  return within == 0 ? start : start + std::min(quantised_block - within, row - column);
}

std::size_t together(const Tensor& tensor) {
  if (!share_blocks(tensor)) return of_columns(tensor) ? group : 1;
  const std::size_t fewest = fewest_together(tensor.grid, tensor.rows.row);
  std::size_t width = group;
  while (width > fewest && width * tensor.grid.run > longest_shared) width /= 2;
  return std::max(width, fewest);
}

std::size_t summed_together(const Tensor& tensor) {
  if (tensor.moment_dtype != Dtype::int8) return group;
  if (of_columns(tensor) || share_blocks(tensor)) return together(tensor);
  const std::size_t size = std::max<std::size_t>(tensor.grid.layer_size(), 1);
  return std::clamp<std::size_t>(summed / size, 1, group);
}

}  // namespace novograd
